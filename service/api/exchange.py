"""One request and its answer, as they pass the edge.

Takes care of what was not read of a request when its answer is sent: a connection on which the
client still sends a body can't be used again, and must not be cut before the client knows why.
"""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from service.api.problems import problem_response
from service.api.trace import Trace
from service.errors import RequestError
from service.logs import request_id

_SMALL_BODY = 2**20
_SMALL_BODY_S = 0.1
_LINGER_S = 2.0
_LINGER_BYTES = 64 * 2**20


class Exchange:
    """Wraps the `receive` and `send` of one ASGI request; notes its trace and status."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, closing: bool) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._closing = closing  # stopping: the client's next request should go elsewhere
        headers: dict[bytes, bytes] = dict(scope["headers"])
        self.trace = Trace(request_id(headers.get(b"x-request-id")))
        self.trace.attach(scope)
        self.status = 499  # until an answer is sent
        self.seconds: float | None = None  # from arrival to the answer's last byte
        self._announced = int(headers.get(b"content-length", b"0"))
        self._unread = self._announced > 0 or b"transfer-encoding" in headers
        # A client that waits for "100 Continue" has not begun to send.
        self._held_back = b"expect" in headers
        self._started = False

    async def receive(self) -> Message:
        """Pass on a piece of the body, and see whether it was the last."""
        message = await self._receive()
        self._held_back = False
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        """Pass on a piece of the answer; close the connection if a body is left unread."""
        if message["type"] == "http.response.start":
            # The rest of a small body costs less to read than a new connection.
            if 0 < self._announced <= _SMALL_BODY:
                await self._read_on(_SMALL_BODY_S, _SMALL_BODY)
            self._start(message)
            await self._send(message)
            return
        if not message.get("more_body", False):
            self.seconds = time.perf_counter() - self.trace.arrival
            if self._unread:
                await self._send({**message, "more_body": True})
                await self._read_on(_LINGER_S, _LINGER_BYTES)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def give_up_body(self) -> None:
        """Answer at once and close: there is no time left to read on."""
        self._announced, self._unread, self._closing = 0, False, True

    async def answer(self, error: RequestError) -> None:
        """Send an error, if no answer has begun."""
        if not self._started:
            await problem_response(error, self.trace)(self._scope, self.receive, self.send)

    def _start(self, message: Message) -> None:
        self._started = True
        self.status = message["status"]
        headers = MutableHeaders(scope=message)
        headers["X-Request-Id"] = self.trace.request_id
        if timings := self.trace.timings_ms():
            headers["Server-Timing"] = ", ".join(f"{k};dur={v}" for k, v in timings.items())
        if self._unread or self._closing:
            headers["Connection"] = "close"

    async def _read_on(self, seconds: float, size: int) -> None:
        """Read and drop what the client still sends, within limits.

        Closing with unread data makes the kernel send a reset, which can reach the client before
        it has read why it was refused (RFC 9112, section 9.6).
        """
        left = 0 if self._held_back else size
        try:
            async with asyncio.timeout(seconds):
                while self._unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return
