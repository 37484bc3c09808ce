"""How long batches take: measured at load, kept current by live batches, and used for planning.

Thread-safe: a runner writes while the event loop reads.
"""

from __future__ import annotations

import bisect
import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_WINDOW = 32
"""Timings kept per batch size: enough for a 95th percentile, few enough to follow changes."""

_KNOWN = 8
"""Timings of a size after which one more changes little."""

_CURRENT = 512
"""Batches after which a timing is discarded, if there is a newer one of its size."""

STALE_S = 10.0
"""Seconds without a live batch after which the last timings say little about the next batch."""

_LEAST_TRUST = 1 / 64
"""The smallest share of a measured time that is still considered possible."""

_TRY_EVERY = 16
"""One batch in this many has a size other than the best, to keep that size's timings current: one
last timed while the machine was quiet looks fast next to one timed under load, and vice versa."""

_SPARE_TO_TRY = 4.0
"""Another size is tried only if there is time left for this many such batches."""

_AS_FAST = 0.98
"""A smaller batch with this share of the best throughput is preferred: its images wait less.

It is close to 1 because each batch also costs Python time that isn't in the table: at 0.95 a light
model ran in batches of 4, some per cent slower than in batches of 8.
"""


@dataclass(frozen=True, slots=True)
class _Plans:
    """Precomputed answers by batch size; every request needs several."""

    rows: Sequence[tuple[int, float, float]] = ()  # measured size, median, 95th percentile
    medians: Sequence[float] = (0.0,)  # seconds of 0, 1, ... images up to the largest measured
    highs: Sequence[float] = (0.0,)
    best: Sequence[int] = field(default=(0,))  # the best size of at most 0, 1, ... images


class LatencyTable:
    """Seconds that a batch takes, by size: median and 95th percentile.

    Neither decreases with size: noise never makes a larger batch look faster. Sizes between
    measured ones are interpolated or, where batches are `padded` to the measured sizes, take as
    long as the next larger one. Without any measurement all times are 0.
    """

    def __init__(self, measured: Iterable[tuple[int, float]] = (), *, padded: bool = False) -> None:
        self._padded = padded
        self._lock = threading.Lock()
        self._measured: list[tuple[int, float]] = []
        self._samples: dict[int, deque[tuple[int, float]]] = {}  # live batches before it, seconds
        self._unplanned = 0
        self._observed = 0
        self._observed_at = time.perf_counter()
        self._trust = 1.0
        self._since_trial = 0
        self._plans = _Plans()
        for size, seconds in measured:
            self.measure(size, seconds)

    def measure(self, size: int, seconds: float) -> None:
        """Record a batch that was run alone to measure it."""
        with self._lock:
            self._measured.append((size, seconds))
            self._note(size, seconds)
            self._plans = self._make_plans()

    @property
    def is_stale(self) -> bool:
        """Return whether the last live batch was long enough ago to call `doubt`.

        If live batches were too slow for any request's deadline, no further batch would run that
        could correct the timings.
        """
        return time.perf_counter() - self._observed_at > STALE_S

    def forget(self) -> None:
        """Return to the times measured at load."""
        with self._lock:
            self._go_back(1.0)

    def doubt(self) -> None:
        """Return to the times measured at load, or halve them if they are already in use.

        They may have been measured while the machine was busy with something else. The next live
        batch will show.
        """
        with self._lock:
            self._go_back(1.0 if self._observed else max(self._trust / 2, _LEAST_TRUST))

    def _go_back(self, trust: float) -> None:
        self._trust, self._observed, self._samples = trust, 0, {}
        self._observed_at = time.perf_counter()
        for size, seconds in self._measured:
            self._note(size, seconds * trust)
        self._plans = self._make_plans()

    def observe(self, size: int, seconds: float) -> None:
        """Record a live batch of `size` images that took `seconds`.

        For a size with many timings, plans are updated only every few batches: making them takes
        longer than answering a small batch.
        """
        with self._lock:
            if self._trust < 1:  # this batch settles the doubt
                doubted_s = max(self.median_s(size), 1e-9)
                self._go_back(min(1.0, self._trust * seconds / doubted_s))
                self._trust = 1.0
            self._observed += 1
            self._observed_at = time.perf_counter()
            self._note(size, seconds)
            self._unplanned += 1
            if len(self._samples[size]) <= _KNOWN or self._unplanned >= _KNOWN:
                self._plans = self._make_plans()
                self._unplanned = 0

    def _note(self, size: int, seconds: float) -> None:
        samples = self._samples.setdefault(size, deque(maxlen=_WINDOW))
        samples.append((self._observed, seconds))
        while samples[0][0] < self._observed - _CURRENT:
            samples.popleft()

    def _make_plans(self) -> _Plans:
        if not self._samples:
            return _Plans()
        rows, median, high = [], 0.0, 0.0
        for size in sorted(self._samples):
            ordered = sorted([seconds for _, seconds in self._samples[size]])
            median = max(median, ordered[(len(ordered) - 1) // 2])
            high = max(high, median, ordered[-(-len(ordered) * 95 // 100) - 1])
            rows.append((size, median, high))
        between = _steps if self._padded else _interpolate
        medians = between([(size, median) for size, median, _ in rows])
        highs = between([(size, high) for size, _, high in rows])
        return _Plans(rows, medians, highs, _best_sizes(medians))

    def padded_size(self, size: int) -> int:
        """Return the size that a batch is padded to.

        A GPU has plans only for sizes that it has met; a CPU would waste time on the padding.
        """
        if not self._padded:
            return size
        return next((bucket for bucket, _, _ in self._plans.rows if bucket >= size), size)

    def median_s(self, size: int) -> float:
        """Return the median seconds of a batch of that size."""
        return _at(self._plans.medians, size)

    def p95_s(self, size: int) -> float:
        """Return the 95th percentile of the seconds of a batch of that size."""
        return _at(self._plans.highs, size)

    def best_size(self, waiting: int, time_left_s: float) -> int:
        """Return the best size, 1 to `waiting`, of a batch that must end within `time_left_s`.

        Of the sizes whose 95th percentile fits, this is the smallest one with nearly the highest
        throughput. If none fits, it is 1: the earliest image may still make it.
        """
        plans = self._plans
        if not plans.rows:
            return waiting
        waiting = self._fitting(waiting, time_left_s)
        # Beyond the measured sizes, none is assumed to be faster than the largest.
        return max(1, plans.best[min(waiting, len(plans.best) - 1)])

    def trial_size(self, best: int, waiting: int, time_left_s: float) -> int | None:
        """Return a size to run on trial instead of the best one, if it is time for a trial.

        It is the least recently run of its neighbours, which have at least half and at most twice
        as many images, if there is time for several such batches. Report the choice with
        `note_choice`.
        """
        if self._since_trial + 1 < _TRY_EVERY:
            return None
        most = min(2 * best, self._fitting(waiting, time_left_s / _SPARE_TO_TRY))
        with self._lock:
            last = {size: samples[-1][0] for size, samples in self._samples.items()}
        sizes = [size for size in last if best <= 2 * size <= 2 * most and size != best]
        return min(sizes, key=lambda size: (last[size], size), default=None)

    def note_choice(self, *, is_trial: bool) -> None:
        """Count a batch for which there was a choice of sizes."""
        # Without the lock: being off by one does no harm.
        self._since_trial = 0 if is_trial else self._since_trial + 1

    def _fitting(self, most: int, time_left_s: float) -> int:
        """Return the largest size up to `most` whose 95th percentile fits; 0 if none does."""
        if time_left_s == math.inf:
            return most
        highs = self._plans.highs
        if _at(highs, most) <= time_left_s:
            return most
        # The percentiles never decrease with size.
        return bisect.bisect_right(range(1, most), time_left_s, key=lambda size: _at(highs, size))

    def plan(self, images: int, max_batch: int) -> tuple[float, float]:
        """Predict how long one runner takes for `images` in batches of the best size.

        Returns the seconds of all batches and those of the last one.
        """
        if images <= 0:
            return 0.0, 0.0
        plans = self._plans
        best, medians = plans.best, plans.medians
        largest = len(best) - 1 if plans.rows else 0
        size = best[min(images, max_batch, largest)] if largest else min(images, max_batch)
        last_s = _at(medians, size)
        whole = max(0, -(-(images - max_batch) // size))  # while more wait than fit in one batch
        total_s = whole * last_s
        images -= whole * size
        while images > 0:
            size = best[min(images, largest)] if largest else images
            last_s = _at(medians, size)
            total_s, images = total_s + last_s, images - size
        return total_s, last_s

    def rows(self) -> list[tuple[int, float, float]]:
        """Return (size, median, 95th percentile) for each measured size, in seconds."""
        return list(self._plans.rows)


def _at(seconds: Sequence[float], size: int) -> float:
    """Look up a size; beyond the largest measured one, scale that one's time in proportion."""
    largest = len(seconds) - 1
    return seconds[size] if size <= largest else seconds[largest] * size / max(largest, 1)


def _interpolate(points: Sequence[tuple[int, float]]) -> list[float]:
    """Return the seconds for 0, 1, ... images up to the last point's size, interpolated."""
    seconds = [0.0] + [points[0][1]] * points[0][0]
    for (low, low_s), (high, high_s) in itertools.pairwise(points):
        step = (high_s - low_s) / (high - low)
        seconds += [low_s + step * count for count in range(1, high - low)] + [high_s]
    return seconds


def _steps(points: Sequence[tuple[int, float]]) -> list[float]:
    """Return the seconds for 0, 1, ... images, each batch padded to the next point's size."""
    seconds = [0.0]
    for size, size_s in points:
        seconds += [size_s] * (size + 1 - len(seconds))
    return seconds


def _best_sizes(medians: Sequence[float]) -> list[int]:
    """Return, for limits of 0, 1, ... images, the smallest size with nearly the best throughput."""
    sizes, best, rate = [0], 1, 0.0
    for size in range(1, len(medians)):
        rate = max(rate, _rate(medians, size))
        while _rate(medians, best) < rate * _AS_FAST:  # the bar only rises: never back
            best += 1
        sizes.append(best)
    return sizes


def _rate(medians: Sequence[float], size: int) -> float:
    return size / max(medians[size], 1e-9)
