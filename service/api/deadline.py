"""How long a request may take and how urgent it is: its headers, and the clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from service.api.trace import Trace
from service.batching.ticket import Priority
from service.errors import DeadlineExceededError, InvalidPriorityError, InvalidTimeoutError
from service.settings import MAX_TIMEOUT_MS, Settings

_PRIORITIES = {"high": Priority.HIGH, "low": Priority.LOW}


@dataclass(frozen=True, slots=True)
class Urgency:
    """A request's deadline (of `time.perf_counter()`) and priority."""

    deadline: float
    timeout_ms: int
    priority: Priority

    def left_s(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - time.perf_counter()


def urgency_of(
    headers: Mapping[bytes, bytes], trace: Trace, settings: Settings, model: str
) -> Urgency:
    """Read `X-Request-Timeout-Ms`, counted from the request's arrival, and `X-Request-Priority`.

    Raises `InvalidTimeoutError` or `InvalidPriorityError`.
    """
    default = settings.model_timeout_ms.get(model, settings.request_timeout_ms)
    text = _text(headers, b"x-request-timeout-ms", str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_TIMEOUT_MS):
        raise InvalidTimeoutError(
            f"X-Request-Timeout-Ms is {text[:20]!r}; a whole number of milliseconds from 1 to "
            f"{MAX_TIMEOUT_MS} is allowed"
        )
    priority = _text(headers, b"x-request-priority", "high").lower()
    if priority not in _PRIORITIES:
        raise InvalidPriorityError(
            f"X-Request-Priority is {priority[:20]!r}; high and low are allowed"
        )
    timeout_ms = int(text)
    return Urgency(trace.arrival + timeout_ms / 1000, timeout_ms, _PRIORITIES[priority])


def _text(headers: Mapping[bytes, bytes], name: bytes, default: str) -> str:
    value = headers.get(name)
    return default if value is None else value.decode("latin-1")


@asynccontextmanager
async def until_deadline(urgency: Urgency) -> AsyncGenerator[None]:
    """Cancel the block at the deadline, and with it all that it waits for.

    Raises `DeadlineExceededError` then.
    """
    try:
        async with asyncio.timeout(urgency.left_s()):
            yield
    except TimeoutError:
        raise DeadlineExceededError(
            f"the answer was not there within {urgency.timeout_ms} ms (X-Request-Timeout-Ms)"
        ) from None
