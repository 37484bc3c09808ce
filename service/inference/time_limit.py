"""The timer that enforces how long a request may take."""

from __future__ import annotations

import asyncio
from types import TracebackType

from service.errors import BodyTimeoutError, DeadlineExceededError
from service.inference.deadline import RequestDeadline
from service.inference.record import RequestRecord


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
