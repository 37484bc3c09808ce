"""How many requests a key may make in a second."""

from __future__ import annotations

from collections.abc import Callable


class TokenBucket:
    """Allows `rate` requests a second on average, and as many as that (at least one) at once."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self.rate, self._clock = rate, clock
        self._most = max(1.0, rate)
        self._tokens, self._at = self._most, clock()

    def wait_s(self) -> float:
        """Take a token and return 0, or return in how many seconds there is one."""
        now = self._clock()
        self._tokens = min(self._most, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self.rate
