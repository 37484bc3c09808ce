"""The outermost layer of every request, as pure ASGI middleware.

Pure, since under Starlette's `BaseHTTPMiddleware` a handler never learns that its client has gone.
"""

from __future__ import annotations

import asyncio

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.problems import known_error, problem_response
from service.api.state import Service
from service.api.trace import Trace
from service.errors import RequestError, StoppingError
from service.logs import request_id

_log = structlog.get_logger("service.request")

_LARGE_BODY = 2**20
_LINGER_S = 1.0
_LINGER_BYTES = 4 * 2**20


class Edge:
    """Gives each request an id, a trace, metrics, one log line and, whatever happens, an answer."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._metrics = service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, closing=self._service.draining)
        self._metrics.requests_in_flight.inc()
        try:
            await self._app(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            # Stopping took longer than allowed and the server gave this task up; it ends here.
            self._service.given_up += 1
            await exchange.answer(StoppingError("the service stopped before it could answer"))
        except Exception as error:  # noqa: BLE001 - the last place that can still answer
            await exchange.answer(known_error(error, exchange.trace))
        finally:
            self._metrics.requests_in_flight.dec()
            self._record(scope, exchange)

    def _record(self, scope: Scope, exchange: _Exchange) -> None:
        trace, metrics = exchange.trace, self._metrics
        # The template, not the path: clients may ask for any number of paths.
        route = getattr(scope.get("route"), "path", "unmatched")
        seconds = trace.elapsed_s()
        metrics.requests.labels(route, scope["method"], exchange.status).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        if trace.code is not None:
            metrics.rejected.labels(trace.code).inc()
        # Probes and scrapes come every few seconds; they are no news.
        log = _log.info if trace.images or trace.code else _log.debug
        log(
            "request",
            request_id=trace.request_id,
            method=scope["method"],
            path=scope["path"],
            status=exchange.status,
            code=trace.code,
            model=trace.model,
            images=trace.images,
            batch_size=trace.batch_size,
            total_ms=round(seconds * 1000, 3),
            **{f"{stage}_ms": ms for stage, ms in trace.timings_ms().items()},
        )


class _Exchange:
    """One request and its answer, as they pass."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, closing: bool) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._closing = closing  # stopping: the client's next request should go elsewhere
        headers: dict[bytes, bytes] = dict(scope["headers"])
        self.trace = Trace(request_id(headers.get(b"x-request-id")))
        self.trace.attach(scope)
        self.status = 499  # until an answer is sent
        # A client that waits for "100 Continue" has not begun to send.
        self._held_back = b"expect" in headers
        # What is left of a small body costs less to skip, as uvicorn does, than a new connection.
        self._unread = (
            b"transfer-encoding" in headers
            or self._held_back
            or int(headers.get(b"content-length", b"0")) > _LARGE_BODY
        )
        self._started = False

    async def receive(self) -> Message:
        """Pass on a piece of the body, and see whether it was the last."""
        message = await self._receive()
        self._held_back = False
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        """Pass on a piece of the answer; close the connection if a large body is left unread."""
        if message["type"] == "http.response.start":
            self._start(message)
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

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

    async def _linger(self) -> None:
        """Read on for a moment after an early refusal, before the connection is closed.

        Closing with unread data makes the kernel send a reset, which can reach the client before
        it has read why it was refused (RFC 9112, section 9.6).
        """
        left = 0 if self._held_back else _LINGER_BYTES
        try:
            async with asyncio.timeout(_LINGER_S):
                while self._unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            return
