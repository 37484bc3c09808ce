"""Memory that the process has freed and the C library still holds."""

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
    """Return freed memory back to the system, where the C library can be told to.

    Opening a session takes twice the model's size for a moment, and glibc keeps most of that:
    40 MB of 145 with a model file of 12 MB, 130 of 320 with one of 102 MB. So it does with large
    bodies and images.

    Source: https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl and others have none
    if trim is not None:
        trim(0)


def resident_bytes() -> int | None:
    """Return the memory that the process has in RAM; None where the system does not tell.

    The one number of its kind that serving needs; for it alone, psutil would add some 20 ms to
    every start.
    """
    try:
        pages = int(_STATM.read_text("ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


class TrimPolicy:
    """Says when it is worth while to give memory back, by resident bytes and seconds.

    At once when much has been added since the last time; and now and then while there is more than
    there has ever been after one, since what was in use at that time may be free by now. Where that
    gives little back, the next time is later: it takes some 10 ms, for which all threads wait.
    """

    def __init__(self, resident: int, now: float) -> None:
        self._least = self._last = resident
        self._done_at, self._wait_s = now, _AGAIN_S

    def is_due(self, resident: int, now: float) -> bool:
        """Return whether memory should be given back now."""
        if resident - self._last > _MUCH:
            return True
        return resident - self._least > _SOME and now - self._done_at >= self._wait_s

    def done(self, before: int, after: int, now: float) -> None:
        """Note what was resident before memory was given back, and is after it."""
        gave_little = before - after <= _SOME
        self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S) if gave_little else _AGAIN_S
        self._least = min(self._least, after)
        self._last, self._done_at = after, now


async def give_back_while_running() -> None:
    """Look once a second, until cancelled, and give back on another thread: it takes a while."""
    resident = resident_bytes()
    if resident is None:
        return
    policy = TrimPolicy(resident, time.monotonic())
    # A thread of its own, there from the start: a server's threads don't become more.
    with ThreadPoolExecutor(1, "memory") as thread:
        call = partial(asyncio.get_running_loop().run_in_executor, thread)
        await call(lambda: None)  # a pool makes its thread for the first call
        while True:
            await asyncio.sleep(_PERIOD_S)
            resident = resident_bytes()
            if resident is not None and policy.is_due(resident, time.monotonic()):
                await call(give_back_freed)
                policy.done(resident, resident_bytes() or resident, time.monotonic())
