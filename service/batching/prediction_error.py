"""How far predicted answer times are from actual ones."""

from __future__ import annotations

import math

_MEMORY_S = 5.0
"""Time constant of forgetting: several times the length of a queue, since an answer reflects the
plan made when its request arrived. With less, admission swings between too many and too few."""

_DEVIATIONS = 4.0
"""Mean deviations to allow for, as many as RFC 6298 does before it considers a packet lost."""

_MOST_WRONG = 4.0
"""Largest ratio counted, so that one cancelled or stuck request does not spoil the estimate."""


class PredictionErrors:
    """Learns from answers how optimistic plans are, and how reliable that estimate is.

    Batches and decodes are timed separately. Together, on cores that they share with HTTP, they
    take longer; and a service that admits by optimistic plans ends up running every image at the
    last moment, in batches of one.

    Keeps fading sums of planned times, actual times and deviations (mean and mean deviation as in
    RFC 6298, section 2, but over time). The factor is the ratio of the sums, not a mean of ratios:
    short waits, with their overhead, say little about long ones. The deviation is a time, not a
    share of the plan: it is about one batch long, however many images wait. One extra answer that
    went exactly as planned is always included, so that faded sums have no effect.
    """

    def __init__(self) -> None:
        self._answers = self._planned_s = self._took_s = self._deviation_s = 0.0
        self._learned_at = -math.inf

    def learn(self, planned_s: float, took_s: float, now: float) -> None:
        """Record at `now` an answer that was planned to take `planned_s` and took `took_s`."""
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
        """Return the mean actual seconds of work that is planned to take `planned_s`."""
        if planned_s <= 0:
            return 0.0
        left = self._left(now)
        factor = (left * self._took_s + planned_s) / (left * self._planned_s + planned_s)
        return planned_s * max(1.0, factor)

    def margin_s(self, now: float) -> float:
        """Return by how many seconds nearly all answers exceed `expected_s` at most."""
        left = self._left(now)
        return _DEVIATIONS * left * self._deviation_s / (left * self._answers + 1)

    def _left(self, now: float) -> float:
        """Return the share of the sums that has not faded by `now`."""
        return math.exp((self._learned_at - now) / _MEMORY_S)
