"""Waits for conditions, without any assertion on how long that takes."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60.0

_PAUSE_S = 0.001
"""Interval of polling: constant polling would keep the GIL from the threads waited for."""


def wait_until(come: Callable[[], object], instead: Callable[[], object] = lambda: "") -> None:
    """Wait until `come()` is true; on timeout fail with what `instead()` says."""
    end = time.monotonic() + PATIENCE_S
    while not come():
        assert time.monotonic() < end, f"waited in vain: {instead()}"
        time.sleep(_PAUSE_S)
