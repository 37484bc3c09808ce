"""The page at / and its files, which are read once and allow nothing from elsewhere."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FOLDER = Path(__file__).parent.parent / "web"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_PAGE = "index.html"
_ROOT = b"{root}"
"""In the page, stands for what comes before the paths of its files."""

_HEADERS = {
    "Cache-Control": "no-cache",  # kept, but asked about: the answer is then 304 and empty
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str
    etag: str

    def answer(self, request: Request) -> Response:
        """Return the file, or 304 if the client has it (RFC 9110, section 13.1.2)."""
        headers = _HEADERS | {"ETag": self.etag}
        known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
        if "*" in known or self.etag in [tag.removeprefix("W/") for tag in known]:
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def page_routes(root_path: str | None) -> list[Route]:
    """Return the routes of the page, whose links lead through a proxy's root path if there is one.

    Without one they are relative, so that the page also works below a path that is not known here.
    """
    root = f"{root_path}/" if root_path else ""
    files = {path.name: _read(path, root) for path in _FOLDER.iterdir() if path.suffix in _TYPES}
    page = files.pop(_PAGE)

    async def at_root(request: Request) -> Response:
        return page.answer(request)

    async def asset(request: Request) -> Response:
        found = files.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        return found.answer(request)

    return [Route("/", at_root), Route("/web/{name}", asset)]


def _read(path: Path, root: str) -> _File:
    content = path.read_bytes()
    if path.name == _PAGE:
        content = content.replace(_ROOT, root.encode())
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return _File(content, _TYPES[path.suffix], etag)
