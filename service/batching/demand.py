"""How much work comes before a request, by its deadline and priority.

Not thread-safe, except `before`, which may be one item off while others add and remove.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeVar

from service.batching.ticket import Priority


class Ranked(Protocol):
    """Something ordered as in a `DeadlineQueue`. Times are in `time.perf_counter()` seconds."""

    @property
    def deadline(self) -> float:
        """When it is due."""

    @property
    def priority(self) -> Priority:
        """Return whether it overtakes others or is overtaken."""

    @property
    def moves_up_at(self) -> float:
        """When low priority becomes high."""


class Rank(NamedTuple):
    """A place in that order, for work that is not in a queue itself."""

    deadline: float
    priority: Priority = Priority.HIGH
    moves_up_at: float = math.inf


R = TypeVar("R", bound=Ranked)


def who_passes(others: Iterable[R], rank: Rank, until: float) -> list[R]:
    """Return those of `others` served before work of that rank that waits until `until`."""
    due, high = rank.deadline, Priority.HIGH
    if rank.priority is high:
        return [
            other
            for other in others
            if other.deadline <= due and (other.priority is high or other.moves_up_at <= until)
        ]
    return [
        other
        for other in others
        if other.deadline <= due or other.priority is high or other.moves_up_at <= until
    ]


class _Low(NamedTuple):
    """Low-priority work."""

    deadline: float
    priority: Priority
    moves_up_at: float
    amount: float


class Demand:
    """Amounts of work by rank; high-priority ones are sorted by deadline."""

    def __init__(self) -> None:
        self._deadlines: list[float] = []
        self._amounts: list[float] = []
        self._low: list[_Low] = []

    def __bool__(self) -> bool:
        return bool(self._amounts or self._low)

    def add(self, rank: Ranked, amount: float) -> None:
        """Add an amount of work."""
        if rank.priority is Priority.LOW:
            self._low.append(_Low(rank.deadline, rank.priority, rank.moves_up_at, amount))
            return
        index = bisect.bisect_right(self._deadlines, rank.deadline)
        self._deadlines.insert(index, rank.deadline)
        self._amounts.insert(index, amount)

    def remove(self, rank: Ranked, amount: float) -> None:
        """Remove an amount that was added before; it must be there."""
        if rank.priority is Priority.LOW:
            self._low.remove(_Low(rank.deadline, rank.priority, rank.moves_up_at, amount))
            return
        index = self._amounts.index(amount, bisect.bisect_left(self._deadlines, rank.deadline))
        del self._deadlines[index], self._amounts[index]

    def clear(self) -> None:
        """Remove everything."""
        self._deadlines, self._amounts, self._low = [], [], []

    @property
    def total(self) -> float:
        """Return the sum of all amounts."""
        return sum(self._amounts) + sum([low.amount for low in self._low])

    @property
    def has_low(self) -> bool:
        """Return whether there is low-priority work."""
        return bool(self._low)

    def before(self, rank: Rank, until: float) -> float:
        """Return how much is served before work of that rank that waits until `until`."""
        if rank.priority is Priority.LOW:
            high = sum(self._amounts)
        else:
            high = sum(self._amounts[: bisect.bisect_right(self._deadlines, rank.deadline)])
        if not self._low:
            return high
        return high + sum([low.amount for low in who_passes(tuple(self._low), rank, until)])

    def largest(self, first: float, last: float) -> float:
        """Return the largest high-priority amount due from `first` to `last`, or 0."""
        begin = bisect.bisect_left(self._deadlines, first)
        return max(self._amounts[begin : bisect.bisect_right(self._deadlines, last)], default=0.0)

    def later(self, deadline: float) -> list[float]:
        """Return the deadlines of high-priority work due after that one, in ascending order."""
        return self._deadlines[bisect.bisect_right(self._deadlines, deadline) :]
