"""How long batches take: measured at load, kept current from live batches, and used to plan.

Thread-safe: a runner writes while the event loop reads.
"""

from __future__ import annotations

import bisect
import threading
from collections import deque
from collections.abc import Iterable

_WINDOW = 32
"""Timings kept of each batch size: enough for a 95th percentile, few enough to follow a change."""

_AS_FAST = 0.95
"""A smaller batch with this share of the best throughput is preferred: its images wait less."""


class LatencyTable:
    """Seconds that a batch takes, by its size: median and 95th percentile.

    Both grow with the size (a larger batch is never taken to be faster, whatever the noise), and
    sizes between measured ones are interpolated. Without any measurement all times are 0.
    """

    def __init__(self, measured: Iterable[tuple[int, float]] = ()) -> None:
        self._lock = threading.Lock()
        self._samples: dict[int, deque[float]] = {}
        self._curve: tuple[tuple[int, float, float], ...] = ()  # size, median, 95th percentile
        for size, seconds in measured:
            self.observe(size, seconds)

    def observe(self, size: int, seconds: float) -> None:
        """Take note of a batch of `size` images that took `seconds`."""
        with self._lock:
            self._samples.setdefault(size, deque(maxlen=_WINDOW)).append(seconds)
            self._curve = self._monotonic_curve()

    def _monotonic_curve(self) -> tuple[tuple[int, float, float], ...]:
        curve, median, high = [], 0.0, 0.0
        for size in sorted(self._samples):
            ordered = sorted(self._samples[size])
            median = max(median, ordered[(len(ordered) - 1) // 2])
            high = max(high, median, ordered[-(-len(ordered) * 95 // 100) - 1])
            curve.append((size, median, high))
        return tuple(curve)

    def median_s(self, size: int) -> float:
        """Seconds that half of the batches of that size take at most."""
        return self._at(size, 1)

    def p95_s(self, size: int) -> float:
        """Seconds that 95 of 100 batches of that size take at most."""
        return self._at(size, 2)

    def _at(self, size: int, column: int) -> float:
        curve = self._curve
        if not curve:
            return 0.0
        above = bisect.bisect_left(curve, size, key=lambda row: row[0])
        if above == len(curve):  # beyond what was measured: as many of the largest as it takes
            largest = curve[-1]
            return float(largest[column]) * size / largest[0]
        upper = curve[above]
        if above == 0 or upper[0] == size:
            return float(upper[column])
        lower = curve[above - 1]
        share = (size - lower[0]) / (upper[0] - lower[0])
        return float(lower[column] + share * (upper[column] - lower[column]))

    def best_size(self, waiting: int, time_left_s: float) -> int:
        """Plan a batch of 1 to `waiting` images that must end within `time_left_s`.

        Gives the size with the most images a second of those whose 95th percentile fits; if a
        smaller one is as fast but for a few per cent, that one. If none fits, 1: the earliest
        image may still make it.
        """
        fitting = [size for size in range(1, waiting + 1) if self.p95_s(size) <= time_left_s]
        if not fitting:
            return 1
        if not self._curve:
            return fitting[-1]
        rates = [size / max(self.median_s(size), 1e-9) for size in fitting]
        enough = max(rates) * _AS_FAST
        return next(size for size, rate in zip(fitting, rates, strict=True) if rate >= enough)

    def plan(self, images: int, max_batch: int) -> tuple[float, float]:
        """Predict how long `images` take one runner in batches of its best size.

        Gives the seconds of all and those of the last batch.
        """
        if images <= 0:
            return 0.0, 0.0
        size = self.best_size(min(images, max_batch), float("inf"))
        whole, rest = divmod(images, size)
        last_s = self.median_s(rest or size)
        return whole * self.median_s(size) + (last_s if rest else 0.0), last_s

    def rows(self) -> list[tuple[int, float, float]]:
        """Give (size, median, 95th percentile) of the measured sizes."""
        return list(self._curve)
