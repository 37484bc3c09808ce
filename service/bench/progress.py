"""Shows how far a load is, besides what else takes a while."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from service import progress
from service.bench.generator import Tally
from service.bench.summary import Window


class Progress(progress.Progress):
    """Shows progress until `clear` is called."""

    async def follow(self, tally: Callable[[], Tally], title: str, window: Window) -> None:
        """Show the load's progress every second on a terminal, until cancelled.

        Elsewhere it shows nothing, since computing it takes time from sending.
        """
        while self.on_terminal:
            await asyncio.sleep(1)
            right, errors, in_flight, p50 = tally()
            now = time.perf_counter()
            measured = f"{min(now, window.end) - window.start:.0f}/{window.seconds:.0f} s"
            phase = "warm-up" if now < window.start else measured
            self.show(
                f"{title} {phase}: {right} answers/s, p50 {p50 or math.nan:.1f} ms, "
                f"{errors} errors, {in_flight} in flight"
            )
