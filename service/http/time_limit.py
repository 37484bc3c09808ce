"""How long a request may take: the headers that say so, and the timer that enforces it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType

from service.batching.ticket import Priority
from service.errors import (
    BodyTimeoutError,
    DeadlineExceededError,
    InvalidPriorityError,
    InvalidTimeoutError,
)
from service.http.record import RequestRecord
from service.inference.deadline import RequestDeadline
from service.settings import MAX_TIMEOUT_MS
from service.wording import shortened

TIMEOUT_HEADER = b"x-request-timeout-ms"

_MOST_DIGITS = len(str(MAX_TIMEOUT_MS))
_PRIORITIES = {"high": Priority.HIGH, "low": Priority.LOW}


def deadline_of(
    headers: Mapping[bytes, bytes], record: RequestRecord, default_ms: int
) -> RequestDeadline:
    """Read `X-Request-Timeout-Ms`, counted from the request's arrival, and `X-Request-Priority`.

    `default_ms` is the model's timeout, for requests that don't say. Raises `InvalidTimeoutError`
    or `InvalidPriorityError`.
    """
    text = _text(headers, TIMEOUT_HEADER, str(default_ms))
    digits = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    if not (digits and 1 <= int(text) <= MAX_TIMEOUT_MS):
        raise InvalidTimeoutError(
            f"X-Request-Timeout-Ms is {shortened(text)!r}; it must be a whole number of "
            f"milliseconds from 1 to {MAX_TIMEOUT_MS}"
        )
    priority = _text(headers, b"x-request-priority", "high").lower()
    if priority not in _PRIORITIES:
        raise InvalidPriorityError(
            f"X-Request-Priority is {shortened(priority)!r}; it must be high or low"
        )
    timeout_ms = int(text)
    return RequestDeadline(record.arrival + timeout_ms / 1000, timeout_ms, _PRIORITIES[priority])


def _text(headers: Mapping[bytes, bytes], name: bytes, default: str) -> str:
    value = headers.get(name)
    return default if value is None else value.decode("latin-1")


class TimeLimit:
    """Cancels its block if the request's body or the answer is not complete in time.

    One timer serves both limits, since arming one takes as long as reading an image's header; until
    `body_is_read` it is set to the earlier one. Raises `BodyTimeoutError` if the body misses either
    limit, otherwise `DeadlineExceededError`.
    """

    def __init__(self, due: RequestDeadline, record: RequestRecord, body_timeout_s: float) -> None:
        self._due, self._body_timeout_s = due, body_timeout_s
        body_left_s, left_s = body_timeout_s - record.elapsed_s(), due.left_s()
        self._in_body, self._body_first = True, body_left_s < left_s
        self._timeout = asyncio.timeout(body_left_s if self._body_first else left_s)

    async def __aenter__(self) -> TimeLimit:
        """Start the timer."""
        await self._timeout.__aenter__()
        return self

    def body_is_read(self) -> None:
        """Set the timer to the deadline."""
        self._in_body = False
        if self._body_first:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._due.left_s())

    def change(self, due: RequestDeadline) -> None:
        """Set another deadline, which the body asked for."""
        self._due = due
        self._timeout.reschedule(asyncio.get_running_loop().time() + due.left_s())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        record: TracebackType | None,
    ) -> None:
        """Stop the timer; if it has expired, raise the error for what took too long."""
        try:
            await self._timeout.__aexit__(kind, error, record)
        except TimeoutError:
            if self._in_body:
                raise BodyTimeoutError(f"the body did not arrive within {self._limit()}") from None
            raise DeadlineExceededError(
                f"the answer was not ready within {self._due.timeout_ms} ms (X-Request-Timeout-Ms)"
            ) from None

    def _limit(self) -> str:
        if self._body_first:
            return f"{self._body_timeout_s:g} s (body_timeout_s)"
        return f"{self._due.timeout_ms} ms (X-Request-Timeout-Ms or request_timeout_ms)"
