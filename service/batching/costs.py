"""Predicts how long jobs take from what is known about them in advance.

With one mean for all jobs, a single large image would distort the prediction for every small one.
So each kind of job has a cost per job, per pixel and per byte. These start at built-in measurements
and follow what jobs of that kind take on this machine.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

_STEP = 0.3
"""Share of a prediction's error (in logarithms) by which one job corrects the costs."""

_MOST_WRONG = 1.0
"""Largest error (in natural logarithms) that one job counts for: one odd file, or one that had to
wait for a core, changes a prediction by about a third at most."""

_MOST_OFF = math.log(32)
"""Largest deviation (in natural logarithms) of costs from their initial values."""

_MEMORY_S = 60.0
"""Time constant with which costs return to their initial values when no job of the kind is run:
costs so high that they admit no job would otherwise never be corrected."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is known about a job in advance: its kind and its size."""

    kind: str = "unknown"
    pixels: int = 0
    size: int = 0  # in bytes


UNKNOWN_WORK = Work()

NO_WORK = Work("none")
"""Work of an image that is refused on its first inspection."""

# Nanoseconds per job, per pixel and per byte, measured with photos and with flat pictures of
# 64 x 64 to 4000 x 3000 pixels on one core of an AMD EPYC, including the resize.
_FIRST_NS = {
    "jpeg": (500_000, 8, 25),
    "jpeg reduced": (500_000, 1.2, 10),
    "jpeg progressive": (500_000, 12, 60),
    "png": (500_000, 16, 25),
    "png with alpha": (500_000, 35, 25),
    "webp": (500_000, 14, 80),
    "webp lossless": (500_000, 14, 15),
    "gif": (500_000, 15, 10),
    "bmp": (500_000, 7, 0.5),
    "tiff": (500_000, 8, 2),
    "avif": (1_000_000, 20, 100),
    "heic": (1_000_000, 20, 100),
    "form": (200_000, 0, 5),
    "numbers": (100_000, 0, 300),  # written as JSON
    "map": (100_000, 0, 1),
    "overlay": (10_000_000, 15, 25),
    "none": (100_000, 0, 0),
}
_FIRST_OF_OTHERS_NS = (500_000, 15, 25)


class JobCosts:
    """Costs of each kind of job. Thread-safe, except that a concurrent update may be lost."""

    def __init__(self) -> None:
        self._off: dict[str, tuple[float, tuple[float, ...]]] = {}  # learnt at, logarithms

    def expect_s(self, work: Work) -> float:
        """Predict how many seconds a job takes on one thread."""
        return sum(self._parts(work, self._off_by(work.kind, time.perf_counter())))

    def learn(self, work: Work, took_s: float) -> None:
        """Record how long a completed job took.

        The cost that was expected to account for most of it is corrected most.
        """
        now = time.perf_counter()
        off = self._off_by(work.kind, now)
        parts = self._parts(work, off)
        whole = sum(parts)
        wrong = math.log(max(took_s, 1e-9) / whole)
        step = _STEP * max(-_MOST_WRONG, min(wrong, _MOST_WRONG)) / whole
        moved = [log + step * part for log, part in zip(off, parts, strict=True)]
        self._off[work.kind] = now, tuple([max(-_MOST_OFF, min(log, _MOST_OFF)) for log in moved])

    @staticmethod
    def _parts(work: Work, off: tuple[float, ...]) -> list[float]:
        costs = _FIRST_NS.get(work.kind, _FIRST_OF_OTHERS_NS)
        amounts = (1, work.pixels, work.size)
        return [
            1e-9 * cost * amount * math.exp(log)
            for cost, amount, log in zip(costs, amounts, off, strict=True)
        ]

    def _off_by(self, kind: str, now: float) -> tuple[float, ...]:
        """Return the logarithms of the costs' ratios to their initial values, faded with time."""
        known = self._off.get(kind)
        if known is None:
            return (0.0, 0.0, 0.0)
        at, off = known
        left = math.exp((at - now) / _MEMORY_S)
        return tuple([left * log for log in off])
