"""The threads that decode images and run batches. They belong to a device; all models share them.

A model with threads of its own would fight the others for the same cores, and so would decoders
beside runners. A free thread takes the most urgent work of any source, at once; the one that has
decoded an image is as good as any to run it, and to wake another costs more than a small decode.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service.batching.latency import LatencyTable

_LOOK_S = 0.05

Urgency = tuple[int, float]
"""Priority, then deadline: the least is served first."""


@dataclass(slots=True)
class Lane:
    """How many threads may work for some sources at a time.

    In a `serial` lane their batches are computed one after the other, as on a GPU; who comes while
    one is computed gets the next ready.
    """

    limit: int
    serial: bool = False
    running: int = 0
    ended_at: float = 0.0
    """When the last batch of a serial lane ended (`time.perf_counter()`)."""

    @property
    def free(self) -> int:
        """Count the threads that may still join."""
        return self.limit - self.running

    @property
    def parts(self) -> int:
        """Count the batches that what waits is worth being divided into."""
        return 1 if self.serial else self.free


class Source(Protocol):
    """What a pool takes work from. All but `run` is called with `RunnerPool.changed` held."""

    @property
    def lane(self) -> Lane:
        """The lane whose limit counts for this source."""

    @property
    def latencies(self) -> LatencyTable | None:
        """What batches take; None for work that is no batch."""

    def ready_at(self) -> float | None:
        """When work can be taken (`time.perf_counter()`); None while nothing waits."""

    def urgency(self) -> Urgency:
        """How urgent the next piece is; only asked of a source that has one."""

    def may_wait(self) -> bool:
        """Whether the next piece would gain by what other lanes do in the meantime."""

    def take(self, idle: int) -> list[Any]:
        """Take the next piece; `idle` threads are free to take the rest, this one included."""

    def run(self, batch: list[Any]) -> None:
        """Do the work and answer for it."""

    def stopped(self, left: Sequence[Any]) -> None:
        """Fail `left`, the work of a thread that has died of a defect."""


@dataclass(frozen=True, slots=True)
class Run:
    """Work that is being done."""

    source: Source
    batch: list[Any]
    since: float


@dataclass(frozen=True, slots=True)
class RunningBatch:
    """A batch that is under way: its model's table, its images, the seconds that it still takes.

    `ends_at` is as planned, and may be over.
    """

    latencies: LatencyTable
    images: int
    rest_s: float
    ends_at: float = 0.0
    lane: Lane | None = None


class RunnerPool:
    """A fixed number of threads and the sources that they serve.

    `changed` guards the sources' queues as well: a thread looks at all of them and waits for any.
    """

    def __init__(self, runners: int, *, name: str = "cpu") -> None:
        self.runners = runners
        self.changed = threading.Condition()
        self._sources: list[Source] = []
        self._runs: dict[int, Run] = {}
        self._idle = 0
        self._alarm: float | None = None
        self._removing = 0
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
            self._removing += 1
            end = time.monotonic() + timeout_s
            while not (ended := source.ready_at() is None and not self.runs_of(source)):
                left_s = end - time.monotonic()
                if left_s <= 0:
                    break
                # Nobody tells when a waiter cancels what is in line, so now and then it looks.
                self.changed.wait(min(left_s, _LOOK_S))
            self._removing -= 1
            if source in self._sources:  # closing twice does no harm
                self._sources.remove(source)
        return ended

    def wake(self) -> None:
        """Have an idle thread look for new work; call with `changed` held.

        Threads that are at work look by themselves as they end.
        """
        if self._removing:  # who waits there would take the call for itself
            self.changed.notify_all()
        elif self._idle:
            self.changed.notify()

    def running(self) -> list[RunningBatch]:
        """List the batches under way, the oldest first; any thread may ask."""
        now = time.perf_counter()
        found: list[RunningBatch] = []
        for run in sorted(self._runs.values(), key=_since):
            latencies, lane = run.source.latencies, run.source.lane
            if latencies is None:
                continue
            begins_at = run.since
            if lane.serial:
                before = [max(now, other.ends_at) for other in found if other.lane is lane]
                begins_at = max(begins_at, *before, lane.ended_at)
            ends_at = begins_at + latencies.median_s(len(run.batch))
            rest_s = max(0.0, ends_at - max(now, begins_at))
            found.append(RunningBatch(latencies, len(run.batch), rest_s, ends_at, lane))
        return found

    def free_at(self, lane: Lane) -> float:
        """When all batches under way in a lane are planned to end; 0 if there are none."""
        return max((batch.ends_at for batch in self.running() if batch.lane is lane), default=0.0)

    def runs_of(self, source: Source) -> list[Run]:
        """List what is being done for one source."""
        return [run for run in tuple(self._runs.values()) if run.source is source]

    @property
    def ended(self) -> bool:
        """Whether no thread is left to take anything."""
        return self._alive == 0

    def dead(self) -> int:
        """Count the threads that have ended without being asked to."""
        return 0 if self._closing else self.runners - self._alive

    def close(self, timeout_s: float) -> bool:
        """Stop the threads after what they do now; False if one did not end in time."""
        with self.changed:
            self._closing = True
            self.changed.notify_all()
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # The threads.

    def _work(self, index: int) -> None:
        try:
            while run := self._next(index):
                run.source.run(run.batch)
                del run  # a body of many megabytes would stay while the thread waits for the next
        finally:
            # Also when a thread dies of a defect: nobody may wait for one that is gone.
            with self.changed:
                self._alive -= 1
                died = self._end_run(index)
                if died:
                    died.source.stopped(died.batch)
                if self.ended:
                    for source in self._sources:
                        source.stopped(())
                self.changed.notify_all()

    def _next(self, index: int) -> Run | None:
        """End the last piece of work and wait for another; None means that the pool is closed."""
        with self.changed:
            self._end_run(index)
            if self._removing:
                self.changed.notify_all()
            self._idle += 1
            try:
                while not self._closing:
                    source, wait_s = self._most_urgent()
                    if source is None:
                        self._wait(wait_s)
                        continue
                    batch = source.take(min(self._idle, source.lane.parts))
                    if batch:
                        self._runs[index] = run = Run(source, batch, time.perf_counter())
                        source.lane.running += 1
                        # Another idle thread may take what is left, or wait for its time.
                        if self._idle > 1 and self._most_urgent() != (None, None):
                            self.wake()
                        return run
                return None
            finally:
                self._idle -= 1

    def _wait(self, seconds: float | None) -> None:
        """Wait to be woken, or until something may be ready: one idle thread has that alarm."""
        if seconds is None:
            self.changed.wait()
            return
        at = time.perf_counter() + seconds
        if self._alarm is not None and self._alarm <= at:
            self.changed.wait()
            return
        self._alarm = at
        self.changed.wait(seconds)
        if self._alarm == at:
            self._alarm = None

    def _end_run(self, index: int) -> Run | None:
        run = self._runs.pop(index, None)
        if run is not None:
            run.source.lane.running -= 1
        return run

    def _most_urgent(self) -> tuple[Source | None, float | None]:
        """Give the source to serve now, or the seconds until one may be ready (None: unknown)."""
        now, first = time.perf_counter(), None
        ready: list[Source] = []
        for source in self._sources:
            at = source.ready_at()
            if at is None or not source.lane.free:
                continue
            if at <= now:
                ready.append(source)
            else:
                first = at if first is None else min(first, at)
        if not ready:
            return None, None if first is None else first - now
        source = ready[0] if len(ready) == 1 else min(ready, key=_urgency)
        if len(ready) > 1 and source.may_wait():
            priority, _ = source.urgency()
            peers = [other for other in ready if other.urgency()[0] <= priority]
            if any(other.lane is not source.lane for other in peers):
                others = [other for other in peers if not other.may_wait()]
                source = min(others, key=_urgency, default=source)
        return source, None


def _urgency(source: Source) -> Urgency:
    return source.urgency()


def _since(run: Run) -> float:
    return run.since
