"""How far plans are from what happens."""

from __future__ import annotations

import math

_MEMORY_S = 5.0
"""Time constant of what is remembered: several times as long as a queue, since an answer tells of
the plan that was made when its request came. With less, admission swings between too many and too
few."""

_DEVIATIONS = 4.0
"""RFC 6298 waits so many mean deviations for an answer before it takes it for lost."""

_MOST_WRONG = 4.0
"""A single request, cancelled or stuck, must not spoil the estimate."""


class PredictionErrors:
    """Learns from answers by how much plans are too good, and how reliable that is.

    The table times batches and the meter times decodes, each by itself. Together, on cores that
    they share with HTTP, they take longer; and a service that admits by plans that are too good has
    every image run at the last moment, in batches of one.

    Sums, which fade, of what was planned, of what it took and of the deviation (mean and mean
    deviation as in RFC 6298, section 2, but over time). The factor is that of the sums, and not a
    mean of factors: short waits with their overhead say little of long ones. The deviation is a
    time, and not a share of what was planned: it is of about a batch, however many wait. One more
    answer that was just as planned counts always, so that what has faded says nothing.
    """

    def __init__(self) -> None:
        self._answers = self._planned_s = self._took_s = self._deviation_s = 0.0
        self._learned_at = -math.inf

    def learn(self, planned_s: float, took_s: float, now: float) -> None:
        """Take note of what was planned to take `planned_s` and took `took_s`, until `now`."""
        if planned_s <= 0:
            return
        took_s = min(max(took_s, planned_s / _MOST_WRONG), planned_s * _MOST_WRONG)
        left = self._left(now)
        self._learned_at = now
        self._answers = left * self._answers + 1
        self._planned_s = left * self._planned_s + planned_s
        self._took_s = left * self._took_s + took_s
        error_s = abs(took_s - planned_s * self._took_s / self._planned_s)
        self._deviation_s = left * self._deviation_s + error_s

    def expected_s(self, planned_s: float, now: float) -> float:
        """Seconds that what is planned to take `planned_s` takes on an average."""
        if planned_s <= 0:
            return 0.0
        left = self._left(now)
        factor = (left * self._took_s + planned_s) / (left * self._planned_s + planned_s)
        return planned_s * max(1.0, factor)

    def margin_s(self, now: float) -> float:
        """Seconds by which nearly all answers are at most later than that."""
        left = self._left(now)
        return _DEVIATIONS * left * self._deviation_s / (left * self._answers + 1)

    def _left(self, now: float) -> float:
        """Return the share of all that is not forgotten yet."""
        return math.exp((self._learned_at - now) / _MEMORY_S)
