"""Dispatches requests to the handlers in the table of routes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Protocol

from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access.guard import Guard
from service.access.scopes import Scope as KeyScope
from service.errors import AdminOffError, MethodNotAllowedError
from service.http.exchange import Exchange, exchange_of
from service.http.routes import Handler

_SERVER = SimpleNamespace(path="*")  # the route label of "OPTIONS *" in the metrics


class Row(Protocol):
    """A row of a table of routes."""

    @property
    def method(self) -> str:
        """The method."""

    @property
    def path(self) -> str:
        """The path template."""

    @property
    def handler(self) -> Handler:
        """What answers."""

    @property
    def scope(self) -> KeyScope | None:
        """What an API key needs for it."""

    @property
    def also_head(self) -> bool:
        """Whether HEAD is answered too."""


class TableRouter:
    """Routes requests to the table's operations, and all others to `fallback`.

    Handlers are called directly: in a profile of small requests, the framework's dependencies and
    exit stacks took as long as decoding, batching and answering.
    """

    def __init__(
        self,
        operations: Iterable[Row],
        fallback: ASGIApp,
        guard: Guard | None = None,
        *,
        admin_is_open: bool = False,
    ) -> None:
        """Take the guard of API keys and, if there is none, whether anyone may be an admin."""
        by_path: dict[str, dict[str, Handler]] = {}
        for operation in operations:
            methods = by_path.setdefault(operation.path, {})
            handler = guarded(
                operation.handler, operation.scope, guard, admin_is_open=admin_is_open
            )
            methods[operation.method] = handler
            if operation.also_head:
                methods["HEAD"] = handler
        routes = [Route(path, _Endpoint(handlers)) for path, handlers in by_path.items()]
        self._plain = {route.path: route for route in routes if not route.param_convertors}
        # No redirects: one would be built from the client's Host header.
        self._router = Router(routes, redirect_slashes=False, default=fallback)
        self._fallback = fallback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection scope. Raises the handler's error, or `MethodNotAllowedError`."""
        if scope["type"] != "http":
            await self._fallback(scope, receive, send)
        elif route := self._plain.get(scope["path"]):  # most requests; needs no pattern matching
            scope["route"], scope["path_params"] = route, {}
            await route.app(scope, receive, send)
        elif scope["path"] == "*":
            scope["route"] = _SERVER
            await _answer_for_the_server(exchange_of(scope))
        else:
            await self._router(scope, receive, send)


def guarded(
    handler: Handler,
    scope: KeyScope | None,
    guard: Guard | None,
    *,
    admin_is_open: bool = False,
) -> Handler:
    """Return a handler that asks the guard first.

    Without a guard it is the handler itself, so that it costs nothing; but admin calls, and
    whatever has no scope, need one unless `admin_is_open`.
    """
    if scope is KeyScope.PUBLIC:
        return handler
    needed = KeyScope.ADMIN if scope is None else scope
    if guard is None:
        is_open = admin_is_open or needed is not KeyScope.ADMIN
        return handler if is_open else _refuse_admin

    async def admitted(exchange: Exchange) -> None:
        exchange.record.key = guard.admit(exchange.headers.get(b"authorization"), needed)
        await handler(exchange)

    return admitted


async def _refuse_admin(_: Exchange) -> None:
    raise AdminOffError


class _Endpoint:
    """A path's handlers as a raw ASGI app, so that Starlette adds no wrappers."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers

    async def __call__(self, scope: Scope, _: Receive, __: Send) -> None:
        handler = self._handlers.get(scope["method"])
        if handler is None:
            allowed = ", ".join(self._handlers)
            raise MethodNotAllowedError(
                f"{scope['path']} does not allow {scope['method']}; allowed: {allowed}", allowed
            )
        await handler(exchange_of(scope))


async def _answer_for_the_server(exchange: Exchange) -> None:
    """Answer "OPTIONS *", which asks about the server as a whole (RFC 9110, section 9.3.7)."""
    headers = [(b"allow", b"GET, POST, PUT, DELETE, OPTIONS")]
    await exchange.send({"type": "http.response.start", "status": 204, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": b""})
