"""One request and its answer, as they pass through the middleware.

Also handles the part of a request that is still unread when its answer is sent: a connection on
which the client is still sending a body can't be reused, and must not be closed before the client
has read the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.types import Message, Receive, Scope, Send

from service.errors import ClientDisconnectedError, RequestError
from service.http.accept import JSON, OCTETS
from service.http.json_body import json_body
from service.http.problems import MEDIA_TYPE, headers_of, is_v2, problem
from service.inference.record import RequestRecord
from service.inference.runtime import Runtime
from service.inference.time_limit import TimeLimit
from service.logs import request_id

ON_DISCONNECT = "resnet_serve.on_disconnect"
"""Key in the ASGI scope of a function that the server calls when the client disconnects.

A task per request that waits for ASGI's "http.disconnect" would cost more than routing does.
"""

REFUSED = "resnet_serve.refused"
"""Key in the ASGI scope of the error with which the server itself refused the request, after
counting and logging it."""

_KEY = "resnet_serve.exchange"
_NO_MORE: Mapping[str, str] = MappingProxyType({})
_SMALL_BODY = 2**20
_SMALL_BODY_S = 0.1
_LINGER_S = 2.0
_LINGER_BYTES = 64 * 2**20


class Exchange:
    """Wraps the `receive` and `send` of one ASGI request, and keeps its record and status."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, runtime: Runtime) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self.runtime = runtime
        self.headers: Mapping[bytes, bytes] = _together(scope["headers"])
        self.record = RequestRecord(request_id(self.headers.get(b"x-request-id")))
        scope[_KEY] = self
        # Copies, since frameworks further in change the scope.
        self.path: str = scope["path"]
        self.query_string: bytes = scope["query_string"]
        self.status = 499  # until an answer is sent
        self.seconds: float | None = None  # from arrival to the answer's last byte
        self.announced = int(self.headers.get(b"content-length", b"0"))
        self._unread = self.announced > 0 or b"transfer-encoding" in self.headers
        # A client that waits for "100 Continue" has not started sending.
        self._held_back = b"expect" in self.headers
        self._started = False
        self.time_limit: TimeLimit | None = None
        """The limit that is running, for a route that learns its deadline from the body."""

    async def receive(self) -> Message:
        """Pass on a piece of the body and note whether it was the last."""
        message = await self._receive()
        self._held_back = False
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        """Pass on a piece of the answer; close the connection if the body is unread."""
        if message["type"] == "http.response.start":
            # Reading the rest of a small body costs less than a new connection.
            if self._unread and 0 < self.announced <= _SMALL_BODY:
                await self._read_on(_SMALL_BODY_S, _SMALL_BODY)
            self._start(message)
            await self._send(message)
            return
        if not message.get("more_body", False):
            self.seconds = self.record.elapsed_s()
            if self._unread:
                await self._send({**message, "more_body": True})
                message = {"type": "http.response.body", "body": b"", "more_body": False}
                try:
                    await self._read_on(_LINGER_S, _LINGER_BYTES)
                except asyncio.CancelledError:  # abandoned, but the answer has been sent
                    await self._send(message)
                    raise
        await self._send(message)

    def detach(self) -> None:
        """Remove this from the scope, or both would stay in a reference cycle until collected."""
        self._scope.pop(_KEY, None)

    def give_up_body(self) -> None:
        """Skip the rest of the body: the answer is sent at once and the connection closed."""
        self.announced, self._unread = 0, False

    async def respond(
        self, status: int, media_type: str, body: bytes, more: Mapping[str, str] = _NO_MORE
    ) -> None:
        """Send a complete answer; `more` has additional headers."""
        headers = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % len(body))]
        headers += [(name.encode(), value.encode()) for name, value in more.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def respond_json(
        self, body: Mapping[str, Any] | Sequence[Any], status: int = 200
    ) -> None:
        """Send a complete answer in JSON."""
        await self.respond(status, JSON, json_body(body))

    async def respond_array(
        self, values: NDArray[np.float32], more: Mapping[str, str] = _NO_MORE
    ) -> None:
        """Send an array as little-endian float32, with its shape in a header."""
        shape = {"x-shape": ",".join(map(str, values.shape))}
        await self.respond(200, OCTETS, values.astype("<f4").tobytes(), {**shape, **more})

    @property
    def path_parameters(self) -> Mapping[str, str]:
        """Return the values of the path template's parameters."""
        parameters: Mapping[str, str] = self._scope["path_params"]
        return parameters

    async def answer(self, error: RequestError) -> None:
        """Send an error, unless an answer has already started."""
        if not self._started:
            self.record.code = error.code
            body = json_body(problem(error, self.record.request_id, v2=is_v2(self.path)))
            await self.respond(error.status, MEDIA_TYPE, body, headers_of(error))

    def cancelled_when_client_leaves(self) -> _Watch:
        """Return a context manager that cancels its block when the client disconnects.

        Use it once the body has been read. Cancelling the block cancels the futures that it awaits,
        and so drops its tickets before they cost inference. Raises `ClientDisconnectedError` then.
        """
        return _Watch(self._scope)

    def _start(self, message: Message) -> None:
        self._started = True
        self.status = message["status"]
        headers = [*message.get("headers", ())]
        headers.append((b"x-request-id", self.record.request_id.encode()))
        if timings := self.record.timings_ms():
            text = ", ".join([f"{stage};dur={ms}" for stage, ms in timings.items()])
            headers.append((b"server-timing", text.encode()))
        if self._unread or self.runtime.draining:
            headers.append((b"connection", b"close"))
        message["headers"] = headers

    async def _read_on(self, seconds: float, size: int) -> None:
        """Read and discard what the client is still sending, within limits.

        Closing with unread data makes the kernel send a reset, which can reach the client before
        it has read the answer (RFC 9112, section 9.6).
        """
        left = 0 if self._held_back else size
        try:
            async with asyncio.timeout(seconds):
                while self._unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return


def _together(fields: list[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """Return each header's value; different values of one header are joined (RFC 9110, 5.3).

    So there is no ambiguity about which one counts: a header that takes one value becomes invalid.
    """
    if len(headers := dict(fields)) == len(fields):
        return headers
    values: dict[bytes, dict[bytes, None]] = {}
    for name, value in fields:
        values.setdefault(name, {})[value] = None
    return {name: b", ".join(different) for name, different in values.items()}


def exchange_of(scope: Scope) -> Exchange:
    """Return the exchange that the middleware made for this request."""
    exchange: Exchange = scope[_KEY]
    return exchange


class _Watch:
    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._left = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._scope[ON_DISCONNECT] = self._leave

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        del self._scope[ON_DISCONNECT]
        if not self._left or self._task is None or not isinstance(error, asyncio.CancelledError):
            return
        if self._task.uncancel() == 0:  # nothing else has cancelled it
            raise ClientDisconnectedError("the client disconnected before the answer") from None

    def _leave(self) -> None:
        self._left = True
        if self._task is not None:
            self._task.cancel()
