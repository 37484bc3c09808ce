"""Reads HTTP/1.1 responses.

Written here because the service's install has only h11, which costs some 0.2 ms a response on the
core that the generator shares with the server; this costs a few microseconds. It reads what an
HTTP server may send to a request with a known end: a length, chunks, or no body.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_MAX_HEAD = 65_536  # bytes
_END_OF_HEAD = b"\r\n\r\n"
_BODYLESS = {204, 304}
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?")  # and extensions


class Response(NamedTuple):
    """A whole response; `timing` is the raw Server-Timing header."""

    status: int
    body: bytes
    timing: bytes
    keep_alive: bool


class ResponseReader:
    """Puts responses together from pieces, one after another."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Response | None:
        """Take a piece; give the response once it is whole.

        Raises `ValueError` for what is no such response, or goes on after its end.
        """
        self._data = self._data + data if self._data else data
        while True:
            at = self._data.find(_END_OF_HEAD)
            if at < 0:
                if len(self._data) > _MAX_HEAD or not _may_begin(self._data):
                    raise ValueError("no HTTP response")
                return None
            status, headers, keep_alive = _read_head(self._data[:at])
            if not 100 <= status < 200:
                break
            self._data = self._data[at + 4 :]  # that was not the answer yet
        found = _read_body(self._data, at + 4, status, headers)
        if found is None:
            return None
        body, end = found
        if end != len(self._data):
            raise ValueError("more than the response")
        self._data = b""
        return Response(status, body, headers.get(b"server-timing", b""), keep_alive)


def _may_begin(data: bytes) -> bool:
    start = b"HTTP/1."
    return data.startswith(start) or start.startswith(data)


def _read_head(head: bytes) -> tuple[int, dict[bytes, bytes], bool]:
    """Return status, headers by name in lower case, and whether the connection stays open."""
    status_line, *lines = head.split(b"\r\n")
    version, _, rest = status_line.partition(b" ")
    if version not in {b"HTTP/1.1", b"HTTP/1.0"} or not rest[:3].isdigit():
        raise ValueError("no HTTP response")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon:
            raise ValueError("a header without a colon")
        headers[name.lower()] = value.strip()
    connection = headers.get(b"connection", b"").lower()
    keep_alive = connection == b"keep-alive" if version == b"HTTP/1.0" else connection != b"close"
    return int(rest[:3]), headers, keep_alive


def _read_body(
    data: bytes, start: int, status: int, headers: dict[bytes, bytes]
) -> tuple[bytes, int] | None:
    """Return the body and where the response ends; None if it is not all there."""
    if status in _BODYLESS:
        return b"", start
    if b"transfer-encoding" in headers:
        return _read_chunks(data, start)
    length = headers.get(b"content-length", b"")
    if not length.isdigit():
        raise ValueError("a response of unknown length")
    end = start + int(length)
    return (data[start:end], end) if len(data) >= end else None


def _read_chunks(data: bytes, at: int) -> tuple[bytes, int] | None:
    """Read chunks without trailers, from the first; None if they are not all there."""
    chunks: list[bytes] = []
    while (line_end := data.find(b"\r\n", at)) >= 0:
        # int() takes more than a chunk's size may be: signs, which would go back, spaces, 0x and _.
        match = _CHUNK_SIZE.fullmatch(data, at, line_end)
        if match is None:
            raise ValueError("a chunk without its size")
        size = int(match[1], 16)
        start = line_end + 2
        at = start + size + 2
        if len(data) < at:
            return None
        if data[at - 2 : at] != b"\r\n":
            raise ValueError("a chunk of another size than it says")
        if size == 0:
            return b"".join(chunks), at
        chunks.append(data[start : start + size])
    return None
