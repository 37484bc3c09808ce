"""What a pool's threads ask of a source of work: a model's queue of images, or a line of jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from service.batching.latency import LatencyTable

SortKey = tuple[int, float]
"""Priority, then deadline: the least is served first."""


@dataclass(slots=True)
class ConcurrencyLimit:
    """How many threads may work for some sources at a time.

    With a `serial` limit, batches are computed one after the other, as on a GPU; who comes while
    one is computed gets the next ready.
    """

    limit: int
    serial: bool = False
    running: int = 0
    ended_at: float = 0.0
    """When the last batch ended, if serial (`time.perf_counter()`)."""

    @property
    def free(self) -> int:
        """Count the threads that may still join."""
        return self.limit - self.running

    @property
    def parts(self) -> int:
        """Count the batches that what waits is worth being divided into."""
        return 1 if self.serial else self.free


class Trial(NamedTuple):
    """A batch of another size than the best, run to keep that size's timings current."""

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
    """What may be taken instead, if it delays nobody else's more urgent work."""


class WorkSource(Protocol):
    """What a pool takes work from. All but `run` is called by one thread at a time."""

    @property
    def concurrency(self) -> ConcurrencyLimit:
        """The limit that counts for this source."""

    @property
    def latencies(self) -> LatencyTable | None:
        """What batches take; None for work that is no batch."""

    def push(self, item: Any) -> None:
        """Queue a piece of work; raises a `RequestError` where none is taken any more."""

    def offer(self, now: float, idle: int) -> Offer | None:
        """Return the next piece; None while nothing waits.

        `idle` threads are free to take what waits, the one that asks included.
        """

    def may_yield(self, for_s: float, now: float) -> bool:
        """Return whether what was offered would gain if other work ran for so many seconds."""

    def take(self, offer: Offer, now: float) -> list[Any]:
        """Take what was offered, without what nobody waits for any more."""

    def run(self, batch: list[Any]) -> None:
        """Do the work and answer for it."""

    def stopped(self, left: Sequence[Any], *, ended: bool) -> None:
        """Fail `left`, the work of a thread that has died; if it was the last, what waits too."""
