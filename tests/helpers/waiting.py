"""Waiting for what has to come; nothing is asserted about how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60.0

_PAUSE_S = 0.001
"""Between two looks: who looks all the time keeps Python's lock from who is waited for."""


def wait_until(come: Callable[[], object], instead: Callable[[], object] = lambda: "") -> None:
    """Look until it is so. If it never is, `instead` says what there is in its place."""
    end = time.monotonic() + PATIENCE_S
    while not come():
        assert time.monotonic() < end, f"waited in vain: {instead()}"
        time.sleep(_PAUSE_S)
