"""Paths behind a proxy that serves this at a path of its own.

Some proxies take that path off and others don't, and probes come past the proxy: all are answered
alike. The routes know the service's own paths only; FastAPI's pages, which make links, get the
proxy's in front, as ASGI has it.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class WithoutRootPath:
    """Takes the proxy's path off where a request still has it."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a connection on."""
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{self._root_path}/"):
            scope["path"] = scope["path"].removeprefix(self._root_path) or "/"
            scope["raw_path"] = scope["raw_path"].removeprefix(self._root_path.encode()) or b"/"
        await self._app(scope, receive, send)


class WithRootPath:
    """Puts the proxy's path in front and tells the application of it."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a connection on."""
        if scope["type"] == "http":
            scope["root_path"] = self._root_path
            scope["path"] = self._root_path + scope["path"]
            scope["raw_path"] = self._root_path.encode() + scope["raw_path"]
        await self._app(scope, receive, send)
