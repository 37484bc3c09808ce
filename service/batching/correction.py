"""How far plans are from what happens."""

from __future__ import annotations

import math

_MEMORY_S = 5.0
"""Time constant of the running means: several times as long as a queue, since an answer tells of
the plan that was made when its request came. With less, admission swings between too many and too
few."""

_NEWEST = 0.1
"""Most that a single answer may weigh, after whatever pause."""

_DEVIATIONS = 4.0
"""RFC 6298 waits so many mean deviations for an answer before it takes it for lost."""

_MOST_WRONG = 4.0
"""A single request, cancelled or stuck, must not spoil the correction."""


class Correction:
    """Learns from answers by how much plans are too good, and how reliable that is.

    The table times batches and the meter times decodes, each by itself. Together, on cores that
    they share with HTTP, they take longer; and a service that admits by plans that are too good has
    every image run at the last moment, in batches of one.

    Running means of what was planned, of what it took and of the deviation (the estimator of RFC
    6298, section 2, over time). The factor is that of the means, and not the mean of the factors:
    short waits with their overhead say little of long ones. The deviation is a time, and not a
    share of what was planned: it is of about a batch, however many wait.
    """

    def __init__(self) -> None:
        self._planned_s = self._took_s = self._deviation_s = 0.0
        self._learned_at = -math.inf

    def learn(self, planned_s: float, took_s: float, now: float) -> None:
        """Take note of what was planned to take `planned_s` and took `took_s`, until `now`."""
        if planned_s <= 0:
            return
        took_s = min(max(took_s, planned_s / _MOST_WRONG), planned_s * _MOST_WRONG)
        gain = min(_NEWEST, -math.expm1((self._learned_at - now) / _MEMORY_S))
        self._learned_at = now
        self._planned_s += gain * (planned_s - self._planned_s)
        self._took_s += gain * (took_s - self._took_s)
        error_s = abs(took_s - self._factor() * planned_s)
        self._deviation_s += gain * (error_s - self._deviation_s)

    def at_most_s(self, planned_s: float) -> float:
        """Seconds within which nearly all that is planned to take `planned_s` is done."""
        return planned_s * max(1.0, self._factor()) + _DEVIATIONS * self._deviation_s

    def _factor(self) -> float:
        return self._took_s / self._planned_s if self._planned_s else 1.0
