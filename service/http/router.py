"""Dispatches requests to the handlers of the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.exchange import Exchange, exchange_of
from service.http.problems import http_error
from service.http.routes import Handler, Operation

_SERVER = SimpleNamespace(path="*")  # what the metrics call the server as a whole


class TableRouter:
    """The operations of the table; what is none of them is left to `fallback`.

    Handlers are called at once: in a profile of small requests, the framework's dependencies and
    exit stacks took as long as decoding, batching and answering.
    """

    def __init__(self, operations: Iterable[Operation], fallback: ASGIApp) -> None:
        by_path: dict[str, dict[str, Handler]] = {}
        for operation in operations:
            methods = by_path.setdefault(operation.path, {})
            methods[operation.method] = operation.handler
            if operation.also_head:
                methods["HEAD"] = operation.handler
        routes = [_route(path, methods) for path, methods in by_path.items()]
        # No redirects: one would be built from the client's Host header.
        self._router = Router(routes, redirect_slashes=False, default=fallback)
        self._fallback = fallback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection scope. Raises the handler's error."""
        if scope["type"] != "http":
            await self._fallback(scope, receive, send)
            return
        if scope["path"] == "*":
            scope["route"] = _SERVER
            await _answer_for_the_server(exchange_of(scope))
            return
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            raise http_error(error, scope["method"], scope["path"]) from None


async def _answer_for_the_server(exchange: Exchange) -> None:
    """Answer "OPTIONS *", which asks about the server as a whole (RFC 9110, section 9.3.7)."""
    headers = [(b"allow", b"GET, POST, OPTIONS")]
    await exchange.send({"type": "http.response.start", "status": 204, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": b""})


def _route(path: str, handlers: Mapping[str, Handler]) -> Route:
    route = Route(path, _Endpoint(handlers), methods=handlers)
    route.methods = set(handlers)  # Starlette adds HEAD to GET by itself
    return route


class _Endpoint:
    """Raw ASGI, so that Starlette wraps nothing around it."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    async def __call__(self, scope: Scope, _: Receive, __: Send) -> None:
        await self._handlers[scope["method"]](exchange_of(scope))
