"""The layer around every request except CORS preflights, as pure ASGI."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import RequestError, StoppingError
from service.http.exchange import REFUSED, Exchange
from service.inference.record import log_request
from service.inference.runtime import Runtime
from service.tracebacks import forget_frames, known_error


class RequestMiddleware:
    """Gives each request an id, a record, metrics, one log line and, whatever happens, an answer.

    It is pure ASGI, since with Starlette's `BaseHTTPMiddleware` a handler never learns that its
    client has gone.
    """

    def __init__(self, app: ASGIApp, runtime: Runtime) -> None:
        self._app = app
        self._runtime = runtime
        self._metrics = runtime.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._runtime)
        self._metrics.requests_in_flight.inc()
        try:
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except Exception as error:  # noqa: BLE001 - the last place that can still answer
                shown = known_error(error, exchange.record.request_id)
                forget_frames(error, logged=True)
                await exchange.answer(shown)
        except asyncio.CancelledError:
            if not (self._runtime.draining or self._runtime.repository.lost):
                raise  # cancelled by the application's runner, not by the server's shutdown
            # Stopping took longer than allowed, and the server abandoned this task.
            self._runtime.given_up += exchange.seconds is None
            exchange.give_up_body()
            await exchange.answer(StoppingError("the service stopped before it could answer"))
        finally:
            self._metrics.requests_in_flight.dec()
            # The template, not the path: clients may request any number of different paths.
            route = getattr(scope.get("route"), "path", "unmatched")
            self._record(scope, exchange, route)
            exchange.detach()

    def _record(self, scope: Scope, exchange: Exchange, route: str) -> None:
        record, metrics = exchange.record, self._metrics
        refused: RequestError | None = scope.pop(REFUSED, None)
        if refused is not None:
            metrics.count_request(route, scope["method"], refused.status, record.elapsed_s())
            return
        seconds = record.elapsed_s() if exchange.seconds is None else exchange.seconds
        metrics.count_request(route, scope["method"], exchange.status, seconds)
        if record.code is not None:
            metrics.count_refusal(record.code)
        log_request(
            record.request_id,
            scope.get("client"),
            exchange.status,
            record.code,
            record.images,
            method=scope["method"],
            path=exchange.path,
            model=record.model,
            batch_size=record.stages.batch_size,
            total_ms=round(seconds * 1000, 3),
            **({} if record.key is None else {"key": record.key}),
            **{f"{stage}_ms": ms for stage, ms in record.timings_ms().items()},
        )
