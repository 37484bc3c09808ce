"""How urgent a request is."""

from __future__ import annotations

import time
from dataclasses import dataclass

from service.batching.ticket import Priority


@dataclass(frozen=True, slots=True)
class RequestDeadline:
    """A request's deadline (in `time.perf_counter()` seconds) and priority."""

    deadline: float
    timeout_ms: int
    priority: Priority = Priority.HIGH
    is_tried: bool = False
    """Whether it was admitted despite too long a plan, and runs however late it looks."""

    def left_s(self) -> float:
        """Return the seconds until the deadline; negative after it."""
        return self.deadline - time.perf_counter()
