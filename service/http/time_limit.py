"""How long a request may take, by its headers."""

from __future__ import annotations

from collections.abc import Mapping

from service.batching.ticket import Priority
from service.errors import InvalidPriorityError, InvalidTimeoutError
from service.inference.deadline import RequestDeadline
from service.inference.record import RequestRecord
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
