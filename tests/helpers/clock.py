"""Time as the test wants it, for the modules of `service.batching` and for threads that sleep."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


class Clock:
    """Replaces the module `time` in `service.batching`; stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return time.monotonic()  # for the pool's joins, which wait for real threads


@contextmanager
def simulated_time(clock: Clock) -> Iterator[None]:
    """Make every module of `service.batching` read the simulated clock."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in tuple(sys.modules.items()):
            if name.startswith("service.batching.") and hasattr(module, "time"):
                patch.setattr(module, "time", clock)
        yield


class Sleepers(threading.Condition):
    """A condition that knows how many threads wait for a notification, not just for its lock."""

    def __init__(self) -> None:
        super().__init__()
        self._sleeping: list[object] = []  # the first is notified first

    @property
    def asleep(self) -> int:
        """Return how many threads wait for a notification."""
        with self:
            return len(self._sleeping)

    def wait(self, timeout: float | None = None) -> bool:
        me = object()
        self._sleeping.append(me)
        try:
            return super().wait(timeout)
        finally:
            if me in self._sleeping:  # not notified
                self._sleeping.remove(me)

    def notify(self, n: int = 1) -> None:
        del self._sleeping[:n]
        super().notify(n)
