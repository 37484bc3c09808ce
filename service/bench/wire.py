"""An HTTP/1.1 client that uses as little CPU as possible, since it shares cores with the server.

Requests are prepared as bytes; a callback gets each answer, without a task or future per request.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple, cast

from service.bench.response import Response, ResponseReader
from service.bench.target import Target

CONNECT_FAILED = "connect_failed"
CONNECTION_LOST = "connection_lost"
TIMEOUT = "timeout"
BAD_RESPONSE = "bad_response"


class Answer(NamedTuple):
    """An answer; without one, `status` is 0 and `failure` says why.

    `ended` is in `time.perf_counter` seconds; the event loop's clock only has milliseconds.
    """

    ended: float
    status: int
    body: bytes
    timing: bytes
    failure: str


_NOTHING = Response(0, b"", b"", keep_alive=False)

Done = Callable[["Connection", Answer], None]


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight.

    `done` is called once for each `send`, and `closed` once if the connection is lost while idle.
    After `done` the connection can be reused if it is `usable`.
    """

    def __init__(self, done: Done, closed: Callable[[Connection], None] | None = None) -> None:
        self._done, self._closed = done, closed
        self._transport: asyncio.Transport
        self._reader = ResponseReader()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._gone = self._loop.create_future()
        self._busy = False
        self._failure = CONNECTION_LOST
        self.usable = False

    def send(self, request: bytes, timeout_s: float) -> None:
        """Send a request over a usable, idle connection; `done` gets the answer."""
        self._busy = True
        self._timer = self._loop.call_later(timeout_s, self._time_out)
        self._transport.write(request)

    def abort(self, failure: str = CONNECTION_LOST) -> None:
        """Drop the connection; a request in flight ends with that failure."""
        self.usable, self._failure = False, failure
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone."""
        await self._gone

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Become usable."""
        self._transport = cast(asyncio.Transport, transport)
        self.usable = True

    def data_received(self, data: bytes) -> None:
        """Deliver the answer once it is complete."""
        try:
            response = self._reader.feed(data)
        except ValueError:
            self.abort(BAD_RESPONSE)
            return
        if response is None:
            return
        if not self._busy:  # an answer without a request
            self.abort(BAD_RESPONSE)
            return
        if not response.keep_alive:
            self.usable = False
            # After an early refusal, part of the request is unsent and will not be read.
            unsent = self._transport.get_write_buffer_size()
            (self._transport.abort if unsent else self._transport.close)()
        self._finish(response, "")

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's name
        """Fail a request that has no answer yet, or report that the connection is gone."""
        self.usable = False
        self._reader.close()
        if self._busy:
            self._finish(_NOTHING, self._failure)
        elif self._closed is not None:
            self._closed(self)
        if not self._gone.done():
            self._gone.set_result(None)

    def _finish(self, response: Response, failure: str) -> None:
        ended = time.perf_counter()
        self._busy = False
        if self._timer is not None:
            self._timer.cancel()
        answer = Answer(ended, response.status, response.body, response.timing, failure)
        self._done(self, answer)

    def _time_out(self) -> None:
        self.abort(TIMEOUT)


class SerialClient:
    """Sends one request at a time over one connection, for everything but the load itself."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        self._target, self._timeout_s = target, timeout_s
        self._connection: Connection | None = None
        self._waiter: asyncio.Future[Answer] | None = None

    async def exchange(self, request: bytes, timeout_s: float | None = None) -> Answer:
        """Send a request and return its answer; failures are in the answer, not raised.

        `timeout_s` overrides the client's own.
        """
        loop = asyncio.get_running_loop()
        ends = loop.time() + (self._timeout_s if timeout_s is None else timeout_s)
        try:
            if self._connection is None or not self._connection.usable:
                async with asyncio.timeout_at(ends):
                    _, self._connection = await loop.create_connection(
                        lambda: Connection(self._answered), self._target.address, self._target.port
                    )
        except OSError:
            return Answer(time.perf_counter(), 0, b"", b"", CONNECT_FAILED)
        self._waiter = loop.create_future()
        self._connection.send(request, max(ends - loop.time(), 0))
        return await self._waiter

    async def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.abort()
            await self._connection.wait_closed()

    def _answered(self, connection: Connection, answer: Answer) -> None:  # noqa: ARG002
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(answer)
