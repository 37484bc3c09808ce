"""What threads do next, and what they do now: the most urgent work of any source."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service.batching.demand import Ranked
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


class WorkSource(Protocol):
    """What a pool takes work from. All but `run` is called with `WorkerPool.changed` held."""

    @property
    def concurrency(self) -> ConcurrencyLimit:
        """The limit that counts for this source."""

    @property
    def latencies(self) -> LatencyTable | None:
        """What batches take; None for work that is no batch."""

    def ready_at(self) -> float | None:
        """When work can be taken (`time.perf_counter()`); None while nothing waits."""

    def sort_key(self) -> SortKey:
        """How urgent the next piece is; only asked of a source that has one."""

    def lasts_s(self) -> float:
        """Predict how long the next piece takes; only asked of a source that has one."""

    def may_wait(self, for_s: float = 0.0) -> bool:
        """Return whether the next piece would gain if others ran for so many seconds or more."""

    def take(self, idle: int) -> list[Any]:
        """Take the next piece; `idle` threads are free to take the rest, this one included."""

    def run(self, batch: list[Any]) -> None:
        """Do the work and answer for it."""

    def stopped(self, left: Sequence[Any]) -> None:
        """Fail `left`, the work of a thread that has died of a defect."""


@dataclass(frozen=True, slots=True)
class Run:
    """Work that is being done."""

    source: WorkSource
    batch: list[Any]
    since: float


@dataclass(frozen=True, slots=True)
class RunningBatch:
    """A batch that is under way: its model's table, its tickets, the seconds that it still takes.

    `ends_at` is as planned, and may be over.
    """

    latencies: LatencyTable
    tickets: Sequence[Ranked]
    rest_s: float
    ends_at: float = 0.0
    concurrency: ConcurrencyLimit | None = None


class Schedule:
    """The sources of work of a number of threads.

    `changed` guards the sources' queues as well: a thread looks at all of them and waits for any.
    """

    def __init__(self, changed: threading.Condition) -> None:
        self.changed = changed
        self._sources: list[WorkSource] = []
        self._runs: dict[int, Run] = {}

    def add(self, source: WorkSource) -> None:
        """Serve one more source."""
        with self.changed:
            self._sources.append(source)

    def begin(self, thread: int, idle: int) -> tuple[Run | None, float | None]:
        """Give a thread the most urgent work; call with `changed` held.

        `idle` threads are free, this one included. If there is none, gives the seconds until there
        may be some, or None where that is not known.
        """
        while True:
            source, wait_s = self._most_urgent()
            if source is None:
                return None, wait_s
            batch = source.take(min(idle, source.concurrency.parts))
            if batch:
                self._runs[thread] = run = Run(source, batch, time.perf_counter())
                source.concurrency.running += 1
                return run, None

    def end(self, thread: int) -> Run | None:
        """Note that a thread has done its work, if it had some; call with `changed` held."""
        run = self._runs.pop(thread, None)
        if run is not None:
            run.source.concurrency.running -= 1
        return run

    @property
    def has_work(self) -> bool:
        """Return whether there is work to be begun, or there may be after a while."""
        return self._most_urgent() != (None, None)

    def running(self) -> list[RunningBatch]:
        """List the batches under way, the oldest first; any thread may ask."""
        now = time.perf_counter()
        found: list[RunningBatch] = []
        for run in sorted(self._runs.values(), key=_since):
            latencies, concurrency = run.source.latencies, run.source.concurrency
            if latencies is None:
                continue
            begins_at = run.since
            if concurrency.serial:
                before = [
                    max(now, other.ends_at) for other in found if other.concurrency is concurrency
                ]
                begins_at = max(begins_at, *before, concurrency.ended_at)
            ends_at = begins_at + latencies.median_s(len(run.batch))
            rest_s = max(0.0, ends_at - max(now, begins_at))
            found.append(RunningBatch(latencies, run.batch, rest_s, ends_at, concurrency))
        return found

    def free_at(self, concurrency: ConcurrencyLimit) -> float:
        """When all batches under way within a limit are planned to end; 0 if there are none."""
        return max(
            (batch.ends_at for batch in self.running() if batch.concurrency is concurrency),
            default=0.0,
        )

    def runs_of(self, source: WorkSource) -> list[Run]:
        """List what is being done for one source."""
        return [run for run in tuple(self._runs.values()) if run.source is source]

    def _most_urgent(self) -> tuple[WorkSource | None, float | None]:
        """Return the source to serve now, or the seconds until one may be ready (None: unknown)."""
        now, first = time.perf_counter(), None
        ready: list[WorkSource] = []
        for source in self._sources:
            at = source.ready_at()
            if at is None or not source.concurrency.free:
                continue
            if at <= now:
                ready.append(source)
            else:
                first = at if first is None else min(first, at)
        if not ready:
            return None, None if first is None else first - now
        source = ready[0] if len(ready) == 1 else min(ready, key=_sort_key)
        if len(ready) > 1 and source.may_wait():
            priority, _ = source.sort_key()
            peers = [other for other in ready if other.sort_key()[0] <= priority]
            if any(other.concurrency is not source.concurrency for other in peers):
                others = [other for other in peers if not other.may_wait()]
                passing = min(others, key=_sort_key, default=source)
                if source.may_wait(passing.lasts_s()):
                    source = passing
        return source, None


def _sort_key(source: WorkSource) -> SortKey:
    return source.sort_key()


def _since(run: Run) -> float:
    return run.since
