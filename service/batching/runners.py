"""The threads that run batches. They belong to a device; all of its models share them.

A model with threads of its own would fight the others for the same cores. A free runner takes the
most urgent batch of any model, at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.batching.latency import LatencyTable
from service.batching.ticket import Ticket

Urgency = tuple[int, float]
"""Priority, then deadline: the least is served first."""


class Source(Protocol):
    """What a pool takes batches from. All but `run` is called with `RunnerPool.changed` held."""

    latencies: LatencyTable

    def ready_at(self) -> float | None:
        """When a batch can be taken (`time.perf_counter()`); None while nothing waits."""

    def urgency(self) -> Urgency:
        """How urgent the next batch is; only asked of a source that has one."""

    def take(self, idle: int) -> list[Ticket]:
        """Take the next batch; `idle` runners are free to take the rest, this one included."""

    def run(self, batch: list[Ticket]) -> None:
        """Run a batch and answer its tickets."""

    def stopped(self, left: Sequence[Ticket]) -> None:
        """Fail `left`, a batch whose runner has died of a defect."""


@dataclass(frozen=True, slots=True)
class Run:
    """A batch that is being run."""

    source: Source
    batch: list[Ticket]
    since: float

    def rest_s(self, now: float) -> float:
        """Seconds that it should still take, by its model's table."""
        return max(0.0, self.source.latencies.median_s(len(self.batch)) - (now - self.since))


class RunnerPool:
    """A fixed number of runner threads and the sources that they serve.

    `changed` guards the sources' queues as well: a runner looks at all of them and waits for any.
    """

    def __init__(self, runners: int, *, name: str = "cpu") -> None:
        self.runners = runners
        self.changed = threading.Condition()
        self._sources: list[Source] = []
        self._runs: dict[int, Run] = {}
        self._idle = 0
        self._alive = runners
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"runner-{name}-{i}", daemon=True)
            for i in range(runners)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, source: Source) -> None:
        """Serve one more source."""
        with self.changed:
            self._sources.append(source)

    def remove(self, source: Source, timeout_s: float) -> bool:
        """Serve a source to its end; False if that took longer than `timeout_s`."""
        with self.changed:
            self.changed.notify_all()
            ended = self.changed.wait_for(
                lambda: source.ready_at() is None and not self.runs_of(source), timeout_s
            )
            if source in self._sources:  # closing twice does no harm
                self._sources.remove(source)
        return ended

    def running(self) -> list[tuple[LatencyTable, int, float]]:
        """Give of each batch that runs now its model's table, its size and its seconds left."""
        now = time.perf_counter()
        return [
            (run.source.latencies, len(run.batch), run.rest_s(now))
            for run in tuple(self._runs.values())
        ]

    def runs_of(self, source: Source) -> list[Run]:
        """List the batches of one source that run now."""
        return [run for run in tuple(self._runs.values()) if run.source is source]

    @property
    def ended(self) -> bool:
        """Whether no runner is left to take anything."""
        return self._alive == 0

    def dead(self) -> int:
        """Count the runners that have ended without being asked to."""
        return 0 if self._closing else self.runners - self._alive

    def close(self, timeout_s: float) -> bool:
        """Stop the runners after the batches that they run; False if one did not end in time."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # The runners' threads.

    def _work(self, index: int) -> None:
        try:
            while run := self._next(index):
                run.source.run(run.batch)
                with self.changed:
                    del self._runs[index]
                    self.changed.notify_all()
        finally:
            # Also when a runner dies of a defect: nobody may wait for a thread that is gone.
            with self.changed:
                self._alive -= 1
                died = self._runs.pop(index, None)
                if died:
                    died.source.stopped(died.batch)
                if self.ended:
                    for source in self._sources:
                        source.stopped(())
                self.changed.notify_all()

    def _next(self, index: int) -> Run | None:
        """Wait for work; None means that the pool is closed."""
        with self.changed:
            self._idle += 1
            try:
                while not self._closing:
                    source, wait_s = self._most_urgent()
                    if source is None:
                        self.changed.wait(wait_s)
                    elif batch := source.take(self._idle):
                        self.changed.notify()  # another idle runner may take what is left
                        self._runs[index] = Run(source, batch, time.perf_counter())
                        return self._runs[index]
                return None
            finally:
                self._idle -= 1

    def _most_urgent(self) -> tuple[Source | None, float | None]:
        """Give the source to serve now, or the seconds until one may be ready (None: unknown)."""
        now, first = time.perf_counter(), None
        ready: list[Source] = []
        for source in self._sources:
            at = source.ready_at()
            if at is not None and at <= now:
                ready.append(source)
            elif at is not None:
                first = at if first is None else min(first, at)
        if ready:
            return min(ready, key=lambda source: source.urgency()), None
        return None, None if first is None else first - now
