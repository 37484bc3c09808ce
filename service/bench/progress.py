"""One line on the terminal that says how far it is; nothing where stderr is no terminal."""

from __future__ import annotations

import asyncio
import sys
import time

from service.bench.load import OK, Load
from service.bench.summary import latencies_ms

_EVERY_S = 0.2


class Progress:
    """The line; it is written over until `clear`."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._shown_at = 0.0

    def show(self, text: str) -> None:
        """Show a text, unless the last one is quite new."""
        if self._on and time.perf_counter() - self._shown_at > _EVERY_S:
            self._shown_at = time.perf_counter()
            sys.stderr.write(f"\r\x1b[K{text[:100]}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._on:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    async def follow(self, load: Load, title: str, start: float, end: float) -> None:
        """Show each second how the load does; runs until it is cancelled."""
        seen = 0
        while self._on:
            await asyncio.sleep(1)
            new, seen = load.samples[seen:], len(load.samples)
            right = [sample for sample in new if sample.kind == OK]
            p50 = sorted(latencies_ms(right))[len(right) // 2] if right else float("nan")
            now = time.perf_counter()
            phase = "warm-up" if now < start else f"{min(now, end) - start:.0f}/{end - start:.0f} s"
            self.show(
                f"{title} {phase}: {len(right)} answers/s, p50 {p50:.1f} ms, "
                f"{len(new) - len(right)} errors, {load.in_flight} in flight"
            )
