"""How long jobs take, predicted by what is known of them before they are done.

One mean for all would let a single large image speak for every small one. So each kind of job has a
cost for a job, for a pixel and for a byte, which start at what was measured once and follow what
jobs of that kind take here.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

_STEP = 0.3
"""By so much of a prediction's error (in logarithms) costs follow a job."""

_MOST_WRONG = 1.0
"""A job counts as at most so many times e off: one odd file, or one that had to wait for a core,
changes a prediction by a third at most."""

_MOST_OFF = math.log(32)
"""So far may costs be from what they were at first."""

_MEMORY_S = 60.0
"""Time constant in which costs go back to that, where no job of the kind tells better: if nobody is
let in by what they have become, nobody will."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is known of a job: its kind, and how much there is of it."""

    kind: str = "unknown"
    pixels: int = 0
    size: int = 0  # in bytes


UNKNOWN_WORK = Work()

NO_WORK = Work("none")
"""Of what is refused as soon as it is looked at."""

# Nanoseconds for a job, for a pixel and for a byte, measured with photos and with flat pictures of
# 64 x 64 to 4000 x 3000 pixels on one core of an AMD EPYC, resize included.
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
    "none": (100_000, 0, 0),
}
_FIRST_OF_OTHERS_NS = (500_000, 15, 25)


class JobCosts:
    """Costs of the kinds of jobs. Thread-safe, but for a lesson that may be lost."""

    def __init__(self) -> None:
        self._off: dict[str, tuple[float, tuple[float, ...]]] = {}  # learnt at, logarithms

    def expect_s(self, work: Work) -> float:
        """Predict the seconds that a job takes a thread."""
        return sum(self._parts(work, self._off_by(work.kind, time.perf_counter())))

    def learn(self, work: Work, took_s: float) -> None:
        """Take note of how long a job took that was done to its end.

        What was expected to make up most of it is corrected most.
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
        """Give, as logarithms, by how much costs are off from the first ones, as far as known."""
        known = self._off.get(kind)
        if known is None:
            return (0.0, 0.0, 0.0)
        at, off = known
        left = math.exp((at - now) / _MEMORY_S)
        return tuple([left * log for log in off])
