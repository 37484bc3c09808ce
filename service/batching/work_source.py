"""The interface of a pool's work sources: a model's queue of images, or a queue of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from service.batching.latency import LatencyTable

SortKey = tuple[int, float]
"""Priority, then deadline: the smallest is served first."""


@dataclass(slots=True)
class ConcurrencyLimit:
    """How many threads may work for one or more sources at a time.

    With a `serial` limit, batches are computed one after another, as on a GPU; other threads
    meanwhile prepare the next ones.
    """

    limit: int
    serial: bool = False
    running: int = 0
    ended_at: float = 0.0
    """When the last batch ended, if serial (in `time.perf_counter()` seconds)."""

    @property
    def free(self) -> int:
        """Return how many more threads may join."""
        return self.limit - self.running

    @property
    def parts(self) -> int:
        """Return into how many parallel batches waiting images may usefully be divided."""
        return 1 if self.serial else self.free


class Trial(NamedTuple):
    """A batch of a size other than the best, run to keep that size's timings current."""

    size: int
    last: SortKey
    """Priority and deadline of the least urgent image in it."""


class Offer(NamedTuple):
    """A source's next piece of work, as it would be taken now."""

    at: float
    """When to take it (`time.perf_counter()`)."""
    sort_key: SortKey
    lasts_s: float = 0.0
    size: int = 1
    trial: Trial | None = None
    """What may be taken instead, if that does not delay more urgent work of other sources."""


class WorkSource(Protocol):
    """What a pool takes work from. Everything but `run` is called by one thread at a time."""

    @property
    def concurrency(self) -> ConcurrencyLimit:
        """Return the limit that applies to this source."""

    @property
    def latencies(self) -> LatencyTable | None:
        """Return how long batches take; None if the work is not in batches."""

    def push(self, item: Any) -> None:
        """Queue a piece of work; raises a `RequestError` if none is accepted any more."""

    def offer(self, now: float, idle: int) -> Offer | None:
        """Return the next piece of work, or None if nothing is waiting.

        `idle` threads are free to take it, including the calling one.
        """

    def may_yield(self, for_s: float, now: float) -> bool:
        """Return whether the offered work would gain if others ran for `for_s` seconds first."""

    def take(self, offer: Offer, now: float) -> list[Any]:
        """Take the offered work, leaving out what has been abandoned."""

    def run(self, batch: list[Any]) -> None:
        """Do the work and deliver its outcome."""

    def stopped(self, left: Sequence[Any], *, ended: bool) -> None:
        """Fail `left`, a dead thread's work, and if no thread is left (`ended`), all that waits."""
