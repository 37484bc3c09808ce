"""The threads that decode images and run batches. They belong to a device; all models share them.

Separate threads for each model, or for decoding and inference, would compete for the same cores. A
free thread takes the most urgent work of any source at once. The thread that has decoded an image
is as good as any to run it, and waking another costs more than a small decode.
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

    A thread holds the lock while it looks for work, and waits on its condition if there is none.
    Anything else that touches a source's queue goes through `submit` or `change`.
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
        """Add a source to take work from."""
        with self._changed:
            self.schedule.sources.append(source)

    def remove(self, source: WorkSource, timeout_s: float) -> bool:
        """Finish a source's work and remove it; return False if that exceeded `timeout_s`."""
        with self._changed:
            self._changed.notify_all()
            self._removing += 1
            end = time.monotonic() + timeout_s
            while not (ended := self._is_done(source)):
                left_s = end - time.monotonic()
                if left_s <= 0:
                    break
                # A waiter's cancellation does not notify, so look now and then.
                self._changed.wait(min(left_s, _LOOK_S))
            self._removing -= 1
            if source in self.schedule.sources:  # closing twice is harmless
                self.schedule.sources.remove(source)
        return ended

    def _is_done(self, source: WorkSource) -> bool:
        waits = not self.ended and source.offer(time.perf_counter(), 1) is not None
        return not waits and not self.schedule.runs_of(source)

    def submit(self, source: WorkSource, item: Any, *, wake: bool = True) -> None:
        """Queue work of a source; raises `ModelUnavailableError` if no thread will ever take it.

        A thread of the pool passes `wake=False`: it looks for work itself when its job ends.
        """
        with self._changed:
            if self.ended:
                raise ModelUnavailableError("the model's runner has stopped")
            source.push(item)
            if wake:
                self._wake()

    def change(self, call: Callable[[], T]) -> T:
        """Call `call` under the lock, as any change to a source's queue requires."""
        with self._changed:
            return call()

    @property
    def ended(self) -> bool:
        """Return whether no thread is left."""
        return self._alive == 0

    def dead(self) -> int:
        """Return how many threads have ended without being asked to."""
        return 0 if self._closing else self.threads - self._alive

    def close(self, timeout_s: float) -> bool:
        """Stop the threads after their current work; return False if one did not end in time."""
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
                del run  # or a body of many megabytes would stay while the thread waits
        finally:
            # Also when a bug kills the thread: nothing may keep waiting for a dead thread.
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
        """End the last piece of work and wait for another; None means the pool is closing."""
        with self._changed:
            self.schedule.end(index)
            if self._removing:
                self._changed.notify_all()
            self._idle += 1
            try:
                while not self._closing:
                    run = self.schedule.begin(index, self._idle)
                    if isinstance(run, Run):
                        # Another idle thread may take the remaining work or wait until it is due.
                        if self._idle > 1 and self.schedule.has_work:
                            self._wake()
                        return run
                    self._wait(run)
                return None
            finally:
                self._idle -= 1

    def _wake(self) -> None:
        """Have an idle thread look for new work; busy ones look when they finish."""
        if self._removing:  # a single notification might wake `remove` instead of a thread
            self._changed.notify_all()
        elif self._idle:
            self._changed.notify()

    def _wait(self, seconds: float) -> None:
        """Wait to be woken, or until work may be due; only one idle thread sets that alarm."""
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
