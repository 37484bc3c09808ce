"""The threads that decode images and run batches. They belong to a device; all models share them.

A model with threads of its own would fight the others for the same cores, and so would decoders
beside runners. A free thread takes the most urgent work of any source, at once; the one that has
decoded an image is as good as any to run it, and to wake another costs more than a small decode.
"""

from __future__ import annotations

import threading
import time

from service.batching.schedule import Run, Schedule, WorkSource

_LOOK_S = 0.05


class WorkerPool(Schedule):
    """A fixed number of threads, and the schedule by which they work.

    A thread holds `changed` while it looks for work, and waits for it where there is none.
    """

    def __init__(
        self, runners: int, *, name: str = "cpu", changed: threading.Condition | None = None
    ) -> None:
        super().__init__(changed or threading.Condition())
        self.runners = runners
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

    def remove(self, source: WorkSource, timeout_s: float) -> bool:
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

    @property
    def ended(self) -> bool:
        """Return whether no thread is left to take anything."""
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
                died = self.end(index)
                if died:
                    died.source.stopped(died.batch)
                if self.ended:
                    for source in self._sources:
                        source.stopped(())
                self.changed.notify_all()

    def _next(self, index: int) -> Run | None:
        """End the last piece of work and wait for another; None means that the pool is closed."""
        with self.changed:
            self.end(index)
            if self._removing:
                self.changed.notify_all()
            self._idle += 1
            try:
                while not self._closing:
                    run, wait_s = self.begin(index, self._idle)
                    if run is not None:
                        # Another idle thread may take what is left, or wait for its time.
                        if self._idle > 1 and self.has_work:
                            self.wake()
                        return run
                    self._wait(wait_s)
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
