"""When a call is tried again: within one budget of time, and not all clients at the same moment."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from service.errors import (
    BrokenModelError,
    ClientTimeoutError,
    RequestError,
    UnexpectedAnswerError,
    UnreachableError,
)

RETRIED = (RequestError, UnreachableError, UnexpectedAnswerError)
"""What a call may raise that another try may mend; `Tries.wait_s` judges it."""

_PASSING = frozenset({429, 502, 503, 504})
_FIRST_S, _MOST_S = 0.1, 10.0
_LEAST_LEFT_S = 0.01  # for a try to be of any use


class Tries:
    """The tries of one call, which together have `timeout_s` seconds."""

    def __init__(self, timeout_s: float, draw: random.Random, clock: Callable[[], float]) -> None:
        self._timeout_s, self._draw, self._clock = timeout_s, draw, clock
        self._end = clock() + timeout_s
        self._made = 0

    def left_s(self) -> float:
        """Return the seconds that are left; raises `ClientTimeoutError` if there are none."""
        left = self._end - self._clock()
        if left <= 0:
            raise self.timed_out()
        return left

    def headers(self) -> Mapping[str, str]:
        """Return the header that tells the service how long its answer is waited for."""
        return {"x-request-timeout-ms": str(max(1, min(int(self.left_s() * 1000), 86_400_000)))}

    def wait_s(self, error: Exception) -> float | None:
        """Return how long to wait before another try; None if none would help or be in time.

        That is at least as long as the service says. The rest is drawn from a range that doubles
        with each try, so that clients that were refused together don't come back together.
        """
        if not is_passing(error):
            return None
        after_s = getattr(error, "retry_after_s", None) or 0
        wait = after_s + self._draw.uniform(0, min(_MOST_S, _FIRST_S * 2**self._made))
        self._made += 1
        return wait if self._clock() + wait + _LEAST_LEFT_S < self._end else None

    def timed_out(self) -> ClientTimeoutError:
        """Return the error of a call whose time is over."""
        return ClientTimeoutError(f"no answer within the timeout of {self._timeout_s:g} s")


def is_passing(error: Exception) -> bool:
    """Return whether the same call may succeed later: the service is busy, starting or away."""
    if isinstance(error, BrokenModelError):  # until its file is replaced
        return False
    if isinstance(error, UnreachableError):
        return True
    return isinstance(error, RequestError | UnexpectedAnswerError) and error.status in _PASSING
