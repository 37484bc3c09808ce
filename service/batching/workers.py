"""The threads that decode images and run batches. They belong to a device; all models share them.

A model with threads of its own would fight the others for the same cores, and so would decoders
beside runners. A free thread takes the most urgent work of any source, at once; the one that has
decoded an image is as good as any to run it, and to wake another costs more than a small decode.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from service.batching.schedule import Run, Schedule
from service.batching.work_source import WorkSource
from service.errors import ModelUnavailableError

T = TypeVar("T")

_LOOK_S = 0.05


class WorkerPool:
    """A fixed number of threads, and the one lock that guards their schedule and its sources.

    A thread holds the lock while it looks for work, and waits for it where there is none. Whatever
    else touches a source's queue does so by `submit` or `change`.
    """

    def __init__(
        self,
        threads: int,
        *,
        name: str = "cpu",
        schedule: Schedule | None = None,
        changed: threading.Condition | None = None,
    ) -> None:
        self.threads = threads
        self.schedule = schedule or Schedule()
        self._changed = changed or threading.Condition()
        self._idle = 0
        self._alarm: float | None = None
        self._removing = 0
        self._alive = threads
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, args=(i,), name=f"runner-{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def add(self, source: WorkSource) -> None:
        """Serve one more source."""
        with self._changed:
            self.schedule.sources.append(source)

    def remove(self, source: WorkSource, timeout_s: float) -> bool:
        """Serve a source to its end; False if that took longer than `timeout_s`."""
        with self._changed:
            self._changed.notify_all()
            self._removing += 1
            end = time.monotonic() + timeout_s
            while not (ended := self._is_done(source)):
                left_s = end - time.monotonic()
                if left_s <= 0:
                    break
                # Nobody tells when a waiter cancels what is in line, so now and then it looks.
                self._changed.wait(min(left_s, _LOOK_S))
            self._removing -= 1
            if source in self.schedule.sources:  # closing twice does no harm
                self.schedule.sources.remove(source)
        return ended

    def _is_done(self, source: WorkSource) -> bool:
        waits = not self.ended and source.offer(time.perf_counter(), 1) is not None
        return not waits and not self.schedule.runs_of(source)

    def submit(self, source: WorkSource, item: Any, *, wake: bool = True) -> None:
        """Queue work of a source; raises `ModelUnavailableError` if no thread will ever take it.

        A thread of the pool passes `wake=False`: it looks for work itself as its job ends.
        """
        with self._changed:
            if self.ended:
                raise ModelUnavailableError("the model's runner has stopped")
            source.push(item)
            if wake:
                self._wake()

    def change(self, call: Callable[[], T]) -> T:
        """Call while no thread takes work, as what changes a source's queue has to be."""
        with self._changed:
            return call()

    @property
    def ended(self) -> bool:
        """Return whether no thread is left to take anything."""
        return self._alive == 0

    def dead(self) -> int:
        """Count the threads that have ended without being asked to."""
        return 0 if self._closing else self.threads - self._alive

    def close(self, timeout_s: float) -> bool:
        """Stop the threads after what they do now; False if one did not end in time."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
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
            with self._changed:
                self._alive -= 1
                died = self.schedule.end(index)
                if died:
                    died.source.stopped(died.batch, ended=self.ended)
                if self.ended:
                    for source in self.schedule.sources:
                        source.stopped((), ended=True)
                self._changed.notify_all()

    def _next(self, index: int) -> Run | None:
        """End the last piece of work and wait for another; None means that the pool is closed."""
        with self._changed:
            self.schedule.end(index)
            if self._removing:
                self._changed.notify_all()
            self._idle += 1
            try:
                while not self._closing:
                    run = self.schedule.begin(index, self._idle)
                    if isinstance(run, Run):
                        # Another idle thread may take what is left, or wait for its time.
                        if self._idle > 1 and self.schedule.has_work:
                            self._wake()
                        return run
                    self._wait(run)
                return None
            finally:
                self._idle -= 1

    def _wake(self) -> None:
        """Have an idle thread look for new work: those that are at work look as they end."""
        if self._removing:  # who waits there would take the call for itself
            self._changed.notify_all()
        elif self._idle:
            self._changed.notify()

    def _wait(self, seconds: float) -> None:
        """Wait to be woken, or until something may be ready: one idle thread has that alarm."""
        if seconds == math.inf:
            self._changed.wait()
            return
        at = time.perf_counter() + seconds
        if self._alarm is not None and self._alarm <= at:
            self._changed.wait()
            return
        self._alarm = at
        self._changed.wait(seconds)
        if self._alarm == at:
            self._alarm = None
