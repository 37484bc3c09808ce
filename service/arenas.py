"""Where threads allocate memory; imports little, since it is called before anything else."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # of glibc's malloc.h


def share_one_arena() -> None:
    """Make all threads allocate from one arena, if the C library supports it.

    glibc gives each thread its own arena, but returns memory to the system only from the end of
    the first one: each decode thread kept 47 MB after images of 3 MB. Call this before any thread
    is started.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
