"""One line on the terminal that says how far it is; nothing where stderr is no terminal."""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable

from service.bench.generator import Tally
from service.bench.summary import Window

_EVERY_S = 0.2


class Progress:
    """The line; it is written over until `clear`."""

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()
        self._shown_at = 0.0

    def show(self, text: str) -> None:
        """Show a text, unless the last one is quite new."""
        if self.shown and time.perf_counter() - self._shown_at > _EVERY_S:
            self._shown_at = time.perf_counter()
            sys.stderr.write(f"\r\x1b[K{text[:100]}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    async def follow(self, tally: Callable[[], Tally], title: str, window: Window) -> None:
        """Show each second how the load does; runs until it is cancelled."""
        while self.shown:
            await asyncio.sleep(1)
            right, errors, in_flight, p50 = tally()
            now = time.perf_counter()
            measured = f"{min(now, window.end) - window.start:.0f}/{window.seconds:.0f} s"
            phase = "warm-up" if now < window.start else measured
            self.show(
                f"{title} {phase}: {right} answers/s, p50 {p50 or math.nan:.1f} ms, "
                f"{errors} errors, {in_flight} in flight"
            )
