"""What each thread is doing, and what it does next.

Not thread-safe, except where noted: the pool holds its lock.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.batching.decision import choose
from service.batching.demand import Ranked
from service.batching.latency import LatencyTable
from service.batching.work_source import ConcurrencyLimit, WorkSource


@dataclass(frozen=True, slots=True)
class Run:
    """Work in progress on a thread."""

    source: WorkSource
    batch: list[Any]
    since: float


@dataclass(frozen=True, slots=True)
class RunningBatch:
    """A batch in progress: its model's table, its tickets, and its remaining seconds.

    `ends_at` is the planned end and may have passed.
    """

    latencies: LatencyTable
    tickets: Sequence[Ranked]
    rest_s: float
    ends_at: float = 0.0
    concurrency: ConcurrencyLimit | None = None


class Schedule:
    """The work sources of a group of threads, and what each thread is doing."""

    def __init__(self) -> None:
        self.sources: list[WorkSource] = []
        self._runs: dict[int, Run] = {}

    def begin(self, thread: int, idle: int) -> Run | float:
        """Start the most urgent work on a thread; `idle` threads are free, including this one.

        If there is none, return the seconds until there may be some, infinite if nothing waits.
        """
        while True:
            now = time.perf_counter()
            chosen = choose(self.sources, now, idle)
            if isinstance(chosen, float):
                return chosen
            source, offer = chosen
            batch = source.take(offer, now)
            if batch:
                self._runs[thread] = run = Run(source, batch, now)
                source.concurrency.running += 1
                return run

    def end(self, thread: int) -> Run | None:
        """Note that a thread has finished its work; return that work, if it had any."""
        run = self._runs.pop(thread, None)
        if run is not None:
            run.source.concurrency.running -= 1
        return run

    @property
    def has_work(self) -> bool:
        """Return whether there is work to start, now or later."""
        now = time.perf_counter()
        return any(
            source.concurrency.free and source.offer(now, 1) is not None for source in self.sources
        )

    # The following methods may be called on any thread.

    def running(self) -> list[RunningBatch]:
        """List the batches in progress, oldest first."""
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
        """Return when all batches in progress within a limit should have ended; 0 if none are."""
        return max(
            (batch.ends_at for batch in self.running() if batch.concurrency is concurrency),
            default=0.0,
        )

    def runs_of(self, source: WorkSource) -> list[Run]:
        """List the work in progress for one source."""
        return [run for run in tuple(self._runs.values()) if run.source is source]


def _since(run: Run) -> float:
    return run.since
