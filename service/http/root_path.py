"""Paths behind a proxy that serves this service under a root path.

Some proxies strip the root path, others don't, and probes bypass the proxy: all get the same
answers. The routes only know the service's own paths; FastAPI's pages, which contain links, get
the root path in front, as ASGI specifies.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


class WithoutRootPath:
    """Strips the root path from requests that have it."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection scope."""
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{self._root_path}/"):
            scope["path"] = scope["path"].removeprefix(self._root_path) or "/"
            scope["raw_path"] = scope["raw_path"].removeprefix(self._root_path.encode()) or b"/"
        await self._app(scope, receive, send)


class WithRootPath:
    """Adds the root path to requests and announces it to the application."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app, self._root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection scope."""
        if scope["type"] == "http":
            scope["root_path"] = self._root_path
            scope["path"] = self._root_path + scope["path"]
            scope["raw_path"] = self._root_path.encode() + scope["raw_path"]
        await self._app(scope, receive, send)
