"""Returns memory that the process has freed, but the C library still holds, to the system."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

_PERIOD_S = 1.0
_MUCH = 32 * 2**20
_SOME = 4 * 2**20
_AGAIN_S, _LONGEST_WAIT_S = 10.0, 40.0
_STATM = Path("/proc/self/statm")


def give_back_freed() -> None:
    """Return freed memory to the system, if the C library supports it.

    Opening a session takes twice the model's size for a moment, and glibc keeps most of that:
    40 MB of 145 with a model file of 12 MB, 130 of 320 with one of 102 MB. It does the same with
    large bodies and images.

    Source: https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl and others have none
    if trim is not None:
        trim(0)


def resident_bytes() -> int | None:
    """Return the process's resident memory in bytes; None if the system does not report it.

    This is the only such figure that serving needs; psutil would add some 20 ms to every start.
    """
    try:
        pages = int(_STATM.read_text("ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


class TrimPolicy:
    """Decides when returning memory is worthwhile, from resident bytes and the time in seconds.

    It is at once when much has been added since the last time, and periodically while more is
    resident than the minimum after any earlier time, since what was in use then may be free by now.
    If little was returned, the next time is later: all threads wait for some 10 ms each time.
    """

    def __init__(self, resident: int, now: float) -> None:
        self._least = self._last = resident
        self._done_at, self._wait_s = now, _AGAIN_S

    def is_due(self, resident: int, now: float) -> bool:
        """Return whether memory should be returned to the system now."""
        if resident - self._last > _MUCH:
            return True
        return resident - self._least > _SOME and now - self._done_at >= self._wait_s

    def done(self, before: int, after: int, now: float) -> None:
        """Record the resident bytes before and after memory was returned."""
        gave_little = before - after <= _SOME
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S) if gave_little else _AGAIN_S
        self._least = min(self._least, after)
        self._last, self._done_at = after, now


async def give_back_while_running() -> None:
    """Check once a second, until cancelled; memory is returned on another thread, being slow."""
    resident = resident_bytes()
    if resident is None:
        return
    policy = TrimPolicy(resident, time.monotonic())
    # Its own thread, started here, so that the server's number of threads stays the same.
    with ThreadPoolExecutor(1, "memory") as thread:
        call = partial(asyncio.get_running_loop().run_in_executor, thread)
        await call(lambda: None)  # a pool starts its thread at the first call
        while True:
            await asyncio.sleep(_PERIOD_S)
            resident = resident_bytes()
            if resident is not None and policy.is_due(resident, time.monotonic()):
                await call(give_back_freed)
                policy.done(resident, resident_bytes() or resident, time.monotonic())
