"""A share that is known ever better, with bounds that hold at every moment.

Looking after each observation and stopping when the bounds please would break an ordinary
confidence interval. A confidence sequence may be looked at all the time: with probability
1 - error, none of all its intervals misses the true share. This one inverts the beta-binomial
mixture martingale (Robbins 1970, "Statistical methods related to the law of the iterated
logarithm"; Howard, Ramdas, McAuliffe and Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic
confidence sequences", Annals of Statistics 49(2)), which ever exceeds 1 / error with at most that
probability (Ville's inequality).

Assumed is that each observation is 1 with the same probability, whatever came before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_HALVINGS = 40
"""How often an interval's end is located in half of what was left; to 1e-12."""


@dataclass(slots=True)
class ConfidenceSequence:
    """Counts observations of 0 and 1, and bounds the probability of 1.

    `error` is the probability that any interval, ever, misses it; 0 < error < 1.
    """

    error: float
    ones: int = 0
    zeros: int = 0

    @property
    def observations(self) -> int:
        """Return the number of observations."""
        return self.ones + self.zeros

    def note(self, *, one: bool) -> None:
        """Count an observation."""
        if one:
            self.ones += 1
        else:
            self.zeros += 1

    def is_at_least(self, share: float) -> bool:
        """Return whether the lower bound is at least `share`, 0 < share < 1."""
        return self._mean > share and self._excludes(share)

    def is_below(self, share: float) -> bool:
        """Return whether the upper bound is below `share`, 0 < share < 1."""
        return self._mean < share and self._excludes(share)

    def interval(self) -> tuple[float, float]:
        """Return the lower and the upper bound; 0 and 1 before any observation."""
        if not self.observations:
            return 0.0, 1.0
        lower = 0.0 if self.ones == 0 else self._boundary(outside=0.0)
        upper = 1.0 if self.zeros == 0 else self._boundary(outside=1.0)
        return lower, upper

    @property
    def _mean(self) -> float:
        return self.ones / self.observations if self.observations else math.nan

    def _excludes(self, share: float) -> bool:
        return self._log_evidence(share) >= -math.log(self.error)

    def _log_evidence(self, share: float) -> float:
        """Return the logarithm of the martingale if the true probability were `share`.

        It is the likelihood of the observations averaged over all probabilities, uniformly, over
        that of `share`; smallest at the mean, and growing towards 0 and 1.
        """
        averaged = (
            math.lgamma(self.ones + 1)
            + math.lgamma(self.zeros + 1)
            - math.lgamma(self.observations + 2)
        )
        likelihood = self.ones * math.log(share) + self.zeros * math.log1p(-share)
        return averaged - likelihood

    def _boundary(self, outside: float) -> float:
        """Return where the interval ends between the mean and `outside`, rounded outwards."""
        inside = self._mean
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            if self._excludes(middle):
                outside = middle
            else:
                inside = middle
        return outside
