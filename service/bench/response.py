"""Parses HTTP/1.1 responses with httptools; only responses of known length are accepted."""

from __future__ import annotations

from typing import NamedTuple

import httptools

_MAX_HEAD = 65_536  # bytes; the parser has no limit of its own
_BODYLESS = {204, 304}


class Response(NamedTuple):
    """A complete response; `timing` is the raw Server-Timing header."""

    status: int
    body: bytes
    timing: bytes
    keep_alive: bool


class ResponseReader:
    """Assembles responses from pieces, one after another."""

    def __init__(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        # Called by the parser, like the methods below; being C functions, they are faster.
        self.on_header = self._headers.__setitem__
        self.on_body = self._body.append
        self._parser = httptools.HttpResponseParser(self)
        self._head_bytes = 0
        self._in_body = False
        self._status, self._timing = 0, b""
        self._whole: Response | None = None

    def feed(self, data: bytes) -> Response | None:
        """Parse a piece; return the response once it is complete.

        Raises `ValueError` if it is not a valid response, or if data follow its end.
        """
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise ValueError("not an HTTP response") from error
        whole = self._whole
        if whole is not None:
            self._whole = None
            self._head_bytes = 0
        elif not self._in_body and self._head_bytes > _MAX_HEAD:
            raise ValueError("a response with an endless head")
        return whole

    def close(self) -> None:
        """Drop the parser, which references this object: collection is off while a load runs."""
        del self._parser

    # Called by the parser, which turns any exception into an HttpParserError.

    def on_message_begin(self) -> None:
        """Start a response."""
        if self._whole is not None:
            raise ValueError("more than one response")

    def on_headers_complete(self) -> None:
        """Check that the length of the body is known."""
        headers = {name.lower(): value for name, value in self._headers.items()}
        self._status = self._parser.get_status_code()
        bodyless = self._status < 200 or self._status in _BODYLESS
        chunked = headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
        if not (b"content-length" in headers or chunked or bodyless):
            raise ValueError("a response of unknown length")
        self._timing = headers.get(b"server-timing", b"").rstrip()
        self._in_body = True

    def on_message_complete(self) -> None:
        """Keep the response, unless it is an interim one (1xx)."""
        if self._status >= 200:
            keep_alive = self._parser.should_keep_alive()
            self._whole = Response(self._status, b"".join(self._body), self._timing, keep_alive)
        self._headers.clear()
        self._body.clear()
        self._in_body, self._head_bytes = False, 0
