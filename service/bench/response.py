"""Reads HTTP/1.1 responses by httptools, as far as a request with a known end may be answered."""

from __future__ import annotations

from typing import NamedTuple

import httptools

_MAX_HEAD = 65_536  # bytes; the parser itself has no limit
_BODYLESS = {204, 304}


class Response(NamedTuple):
    """A whole response; `timing` is the raw Server-Timing header."""

    status: int
    body: bytes
    timing: bytes
    keep_alive: bool


class ResponseReader:
    """Puts responses together from pieces, one after another."""

    def __init__(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        # The parser calls these and the methods below; these are C's, which is measurably faster.
        self.on_header = self._headers.__setitem__
        self.on_body = self._body.append
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = 0
        self._in_body = False
        self._status, self._timing = 0, b""
        self._whole: Response | None = None

    def feed(self, data: bytes) -> Response | None:
        """Take a piece; return the response once it is whole.

        Raises `ValueError` for what is no such response, or goes on after its end.
        """
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise ValueError("no HTTP response") from error
        whole = self._whole
        if whole is not None:
            self._whole = None
            self._head_bytes = 0
        elif not self._in_body and self._head_bytes > _MAX_HEAD:
            raise ValueError("a response with an endless head")
        return whole

    def close(self) -> None:
        """Let go of the parser, which holds this: while a load runs, no garbage is looked for."""
        del self._parser

    # Called by the parser, which raises a HttpParserError for whatever these raise.

    def on_message_begin(self) -> None:
        """Begin a response."""
        if self._whole is not None:
            raise ValueError("more than the response")

    def on_headers_complete(self) -> None:
        """Make sure that the end of the body is known."""
        headers = {name.lower(): value for name, value in self._headers.items()}
        self._status = self._parser.get_status_code()
        bodyless = self._status < 200 or self._status in _BODYLESS
        chunked = headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
        if not (b"content-length" in headers or chunked or bodyless):
            raise ValueError("a response of unknown length")
        self._timing = headers.get(b"server-timing", b"").rstrip()
        self._in_body = True

    def on_message_complete(self) -> None:
        """Keep the response, unless it is one before the answer."""
        if self._status >= 200:
            keep_alive = self._parser.should_keep_alive()
            self._whole = Response(self._status, b"".join(self._body), self._timing, keep_alive)
        self._headers.clear()
        self._body.clear()
        self._in_body, self._head_bytes = False, 0
