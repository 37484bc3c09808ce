"""Waits to within a tenth of a millisecond without spinning.

uvloop's timers, and asyncio's own, have a resolution of milliseconds: an open loop would send each
request up to a millisecond late, or spin on a core that it shares with the server. Linux's timerfd
has nanoseconds, and the same clock as `time.perf_counter`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from types import TracebackType

_CLOCK_MONOTONIC, _ABSOLUTE = 1, 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # TFD_NONBLOCK | TFD_CLOEXEC are the same numbers


class _Times(ctypes.Structure):
    """C's struct itimerspec: the interval (0 for none) and the expiry time."""

    _fields_ = (
        ("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long),
        ("at_s", ctypes.c_long), ("at_ns", ctypes.c_long),
    )  # fmt: skip


class PreciseTimer:
    """A timer for one waiter; a context manager, since it holds a file descriptor."""

    def __init__(self) -> None:
        # os.timerfd_create only exists from Python 3.13 on.
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = self._libc.timerfd_create(_CLOCK_MONOTONIC, _FLAGS)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._waiter: asyncio.Future[None] | None = None

    def __enter__(self) -> PreciseTimer:
        asyncio.get_running_loop().add_reader(self._fd, self._rang)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)

    async def sleep_until(self, at: float) -> None:
        """Wait until `time.perf_counter()` is `at`; return at once if that is past."""
        if at <= time.perf_counter():
            return
        seconds, fraction = divmod(at, 1.0)
        times = _Times(0, 0, int(seconds), int(fraction * 1e9))
        self._waiter = asyncio.get_running_loop().create_future()
        if self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(times), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        await self._waiter

    def _rang(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
