"""Memory that the process has freed and the C library still holds."""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from pathlib import Path

_M_ARENA_MAX = -8  # of glibc's malloc.h
_PERIOD_S = 1.0
_GROWN_BYTES = 32 * 2**20
_AGAIN_S = 10.0
_STATM = Path("/proc/self/statm")


def give_back_freed() -> None:
    """Give freed memory back to the system, where the C library can be told to.

    Opening a session takes twice the model's size for a moment, and glibc keeps most of that:
    40 MB of 145 with a model file of 12 MB, 130 of 320 with one of 102 MB. So it does with large
    bodies and images.

    Source: https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl and others have none
    if trim is not None:
        trim(0)


def share_one_arena() -> None:
    """Have all threads take memory from one place, where the C library can be told to.

    glibc gives each thread an arena of its own, and gives back the end of none but the first: 47 MB
    stayed with each decode thread after images of 3 MB. Call it before there are threads.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def resident_bytes() -> int | None:
    """Give the memory that the process has in RAM; None where the system does not tell."""
    try:
        pages = int(_STATM.read_text("ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


class TrimPolicy:
    """Says when it is worth while to give memory back, by resident bytes and seconds.

    At once when much has been added since the last time; and now and then while there is much more
    than there has ever been after one, since what was in use at that time may be free by now.
    """

    def __init__(self, resident: int, now: float) -> None:
        self._least = self._last = resident
        self._done_at = now

    def is_due(self, resident: int, now: float) -> bool:
        """Whether memory should be given back now."""
        if resident - self._last > _GROWN_BYTES:
            return True
        return resident - self._least > _GROWN_BYTES and now - self._done_at >= _AGAIN_S

    def done(self, resident: int, now: float) -> None:
        """Note what is resident after it was given back."""
        self._least = min(self._least, resident)
        self._last, self._done_at = resident, now


async def give_back_while_running() -> None:
    """Look once a second, until cancelled, and give back on another thread: it takes a while."""
    resident = resident_bytes()
    if resident is None:
        return
    policy = TrimPolicy(resident, time.monotonic())
    while True:
        await asyncio.sleep(_PERIOD_S)
        resident = resident_bytes()
        if resident is not None and policy.is_due(resident, time.monotonic()):
            await asyncio.to_thread(give_back_freed)
            policy.done(resident_bytes() or resident, time.monotonic())
