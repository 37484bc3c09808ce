"""How long batches take: measured at load, kept current from live batches, and used to plan.

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
"""Timings kept of each batch size: enough for a 95th percentile, few enough to follow a change."""

_KNOWN = 8
"""Timings of a size after which a single further one changes little."""

_CURRENT = 512
"""Batches after which a timing of a size counts no more, once there is a newer one."""

STALE_S = 10.0
"""After so long without a live batch, what the last ones took says little of the next."""

_LEAST_TRUST = 1 / 64
"""The least part of what was measured that is taken for possible."""

_TRY_EVERY = 16
"""One batch in so many is of another size than the best, so that its times stay current. What was
last timed in a quiet moment looks fast beside what runs under load, and the other way round."""

_SPARE_TO_TRY = 4.0
"""Batches for which there must be time left, in which another size is tried."""

_AS_FAST = 0.98
"""A smaller batch with this share of the best throughput is preferred: its images wait less.

Not much less than all, since each batch costs Python beside the model's time, which isn't in the
table: with 0.95 a light model ran in batches of 4, some per cent slower than in those of 8.
"""


@dataclass(frozen=True, slots=True)
class _Plans:
    """All that is asked of the table, by batch size; every request asks several times."""

    rows: Sequence[tuple[int, float, float]] = ()  # measured size, median, 95th percentile
    medians: Sequence[float] = (0.0,)  # seconds of 0, 1, ... images up to the largest measured
    highs: Sequence[float] = (0.0,)
    best: Sequence[int] = field(default=(0,))  # the best size of at most 0, 1, ... images


class LatencyTable:
    """Seconds that a batch takes, by its size: median and 95th percentile.

    Both grow with the size (a larger batch is never taken to be faster, whatever the noise), and
    sizes between measured ones are interpolated; where batches are `padded` to the measured sizes,
    they take as long as the next larger one. Without any measurement all times are 0.
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
        """Take note of a batch that was run to measure it, with nothing beside it."""
        with self._lock:
            self._measured.append((size, seconds))
            self._note(size, seconds)
            self._plans = self._make_plans()

    @property
    def is_stale(self) -> bool:
        """Return whether the last live batch was so long ago that `doubt` is in place.

        If live batches were so slow that nobody's deadline allows one, there will be no further
        ones that could tell of better times.
        """
        return time.perf_counter() - self._observed_at > STALE_S

    def forget(self) -> None:
        """Go back to what was measured."""
        with self._lock:
            self._go_back(1.0)

    def doubt(self) -> None:
        """Go back to what was measured, or to half of it if that is what was gone by till now.

        It may have been measured while the machine was busy with something else. The next live
        batch tells.
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
        """Take note of a live batch of `size` images that took `seconds`.

        Of a well-known size, plans follow after some further batches: to make them takes longer
        than to answer a small batch.
        """
        with self._lock:
            if self._trust < 1:  # now it is known better
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
        """Return the size that a batch is filled up to.

        A GPU has plans for the sizes that it has met; a CPU would compute the padding for nothing.
        """
        if not self._padded:
            return size
        return next((bucket for bucket, _, _ in self._plans.rows if bucket >= size), size)

    def median_s(self, size: int) -> float:
        """Seconds that half of the batches of that size take at most."""
        return _at(self._plans.medians, size)

    def p95_s(self, size: int) -> float:
        """Seconds that 95 of 100 batches of that size take at most."""
        return _at(self._plans.highs, size)

    def best_size(self, waiting: int, time_left_s: float) -> int:
        """Plan a batch of 1 to `waiting` images that must end within `time_left_s`.

        Gives the size with the most images a second of those whose 95th percentile fits; if a
        smaller one is as fast but for a few per cent, that one. If none fits, 1: the earliest
        image may still make it.
        """
        plans = self._plans
        if not plans.rows:
            return waiting
        waiting = self._fitting(waiting, time_left_s)
        # Beyond what was measured, no size is taken to be faster than the largest.
        return max(1, plans.best[min(waiting, len(plans.best) - 1)])

    def trial_size(self, best: int, waiting: int, time_left_s: float) -> int | None:
        """Return a size to run on trial in place of the best one, if it is time for a trial.

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
        """Count a batch that is run, where it might have been larger."""
        # Without the lock: one more or less does no harm.
        self._since_trial = 0 if is_trial else self._since_trial + 1

    def _fitting(self, most: int, time_left_s: float) -> int:
        """Return the most images, of at most that many, whose 95th percentile fits; 0 if none."""
        if time_left_s == math.inf:
            return most
        highs = self._plans.highs
        if _at(highs, most) <= time_left_s:
            return most
        # They grow with the size.
        return bisect.bisect_right(range(1, most), time_left_s, key=lambda size: _at(highs, size))

    def plan(self, images: int, max_batch: int) -> tuple[float, float]:
        """Predict how long `images` take one runner in batches of its best size.

        Gives the seconds of all and those of the last batch.
        """
        if images <= 0:
            return 0.0, 0.0
        plans = self._plans
        best, medians = plans.best, plans.medians
        largest = len(best) - 1 if plans.rows else 0
        size = best[min(images, max_batch, largest)] if largest else min(images, max_batch)
        last_s = _at(medians, size)
        whole = max(0, -(-(images - max_batch) // size))  # as long as more waits than fits in one
        total_s = whole * last_s
        images -= whole * size
        while images > 0:
            size = best[min(images, largest)] if largest else images
            last_s = _at(medians, size)
            total_s, images = total_s + last_s, images - size
        return total_s, last_s

    def rows(self) -> list[tuple[int, float, float]]:
        """Return (size, median, 95th percentile) of the measured sizes."""
        return list(self._plans.rows)


def _at(seconds: Sequence[float], size: int) -> float:
    """Look a size up; beyond what was measured, as many of the largest as it takes."""
    largest = len(seconds) - 1
    return seconds[size] if size <= largest else seconds[largest] * size / max(largest, 1)


def _interpolate(points: Sequence[tuple[int, float]]) -> list[float]:
    """Return the seconds of 0, 1, ... images up to the last point's."""
    seconds = [0.0] + [points[0][1]] * points[0][0]
    for (low, low_s), (high, high_s) in itertools.pairwise(points):
        step = (high_s - low_s) / (high - low)
        seconds += [low_s + step * count for count in range(1, high - low)] + [high_s]
    return seconds


def _steps(points: Sequence[tuple[int, float]]) -> list[float]:
    """Return the seconds of 0, 1, ... images, each batch filled up to the next point's size."""
    seconds = [0.0]
    for size, size_s in points:
        seconds += [size_s] * (size + 1 - len(seconds))
    return seconds


def _best_sizes(medians: Sequence[float]) -> list[int]:
    """Give, of at most 0, 1, ... images, the smallest batch of nearly the best throughput."""
    sizes, best, rate = [0], 1, 0.0
    for size in range(1, len(medians)):
        rate = max(rate, _rate(medians, size))
        while _rate(medians, best) < rate * _AS_FAST:  # the bar only rises: never back
            best += 1
        sizes.append(best)
    return sizes


def _rate(medians: Sequence[float], size: int) -> float:
    return size / max(medians[size], 1e-9)
