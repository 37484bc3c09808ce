"""A queue in which urgent items come first and none is overtaken forever.

Order: priority, then deadline, then arrival. Not thread-safe.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from itertools import count
from typing import Generic, Protocol, TypeVar

from service.batching.completion import Waiter
from service.batching.demand import Ranked
from service.batching.ticket import Priority


class Waiting(Ranked, Protocol):
    """An item of a `DeadlineQueue`."""

    @property
    def waiter(self) -> Waiter:
        """Return its waiter, which is cancelled once the item is no longer wanted."""


W = TypeVar("W", bound=Waiting)


class DeadlineQueue(Generic[W]):
    """Waiting items, ordered by priority, deadline and arrival."""

    def __init__(self) -> None:
        self._arrivals = count()
        self._high: list[tuple[float, int, W]] = []  # deadline, arrival
        self._low: list[tuple[float, int, W]] = []
        self._next_up = math.inf  # no later than when the first of `_low` moves up

    def __len__(self) -> int:
        """Return the number of items, including abandoned ones."""
        return len(self._high) + len(self._low)

    def __iter__(self) -> Iterator[W]:
        """Return all items in no particular order."""
        return (item for _, _, item in (*self._high, *self._low))

    def push(self, item: W) -> None:
        """Add an item."""
        heap = self._high if item.priority is Priority.HIGH else self._low
        if heap is self._low:
            self._next_up = min(self._next_up, item.moves_up_at)
        heapq.heappush(heap, (item.deadline, next(self._arrivals), item))

    def first(self, now: float) -> W | None:
        """Return the first item without removing it."""
        heap = self._heap(now)
        return heap[0][2] if heap else None

    def pop(self, now: float) -> W | None:
        """Remove and return the first item."""
        heap = self._heap(now)
        return heapq.heappop(heap)[2] if heap else None

    def remove(self, waiter: Waiter) -> W | None:
        """Remove and return the item with that waiter, wherever it is in the queue."""
        for heap in (self._high, self._low):
            for index, (_, _, item) in enumerate(heap):
                if item.waiter is waiter:
                    heap[index] = heap[-1]
                    heap.pop()
                    heapq.heapify(heap)
                    return item
        return None

    def sweep(self) -> int:
        """Remove all abandoned items; return how many there were."""
        before = len(self)
        for heap in (self._high, self._low):
            heap[:] = [entry for entry in heap if not entry[2].waiter.cancelled()]
            heapq.heapify(heap)
        return before - len(self)

    def sort_key(self, now: float, place: int = 1) -> tuple[int, float]:
        """Return the current priority and deadline of the item at a place in the order, from 1 on.

        The queue must have that many items.
        """
        heap = self._heap(now)
        priority = Priority.HIGH if self._high else Priority.LOW
        if place == 1:
            return priority, heap[0][0]
        if place > len(heap):
            priority, heap, place = Priority.LOW, self._low, place - len(heap)
        return priority, heapq.nsmallest(place, heap)[-1][0]

    def earliest_deadline(self) -> float:
        """Return the earliest deadline; the queue must not be empty."""
        return min(heap[0][0] for heap in (self._high, self._low) if heap)

    def drain(self) -> list[W]:
        """Empty the queue and return its items."""
        left = list(self)
        self._high, self._low = [], []
        return left

    def _heap(self, now: float) -> list[tuple[float, int, W]]:
        if now >= self._next_up:
            stay = []
            for entry in self._low:
                if entry[2].moves_up_at <= now:
                    heapq.heappush(self._high, entry)
                else:
                    stay.append(entry)
            heapq.heapify(stay)
            self._low = stay
            self._next_up = min((item.moves_up_at for _, _, item in stay), default=math.inf)
        return self._high or self._low
