"""Parses multipart/form-data (RFC 7578, RFC 2046) and headers with parameters.

This is our own parser because the whole body is in memory, so boundaries are found by a search in
C. Streaming parsers step through near-boundaries one by one, which takes seconds for 30 MB of them,
and reject text before the first boundary or white space after one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from service.errors import MalformedMultipartError
from service.wording import shortened

Headers = Mapping[bytes, bytes]
"""Headers of a part; names are lower-case."""

_MAX_BOUNDARY_BYTES = 200  # the standard allows 70
_MAX_PADDING = 100
_MAX_HEAD_BYTES = 8192
_MAX_HEADERS = 16
_MAX_NAME_CHARACTERS = 255
_WINDOW = 2**18

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FOLD = re.compile(rb"\r\n[ \t]+")
_PARAMETER = re.compile(rb""";[ \t]*([^=;\s"]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^;]*)""", re.DOTALL)
_ESCAPED = re.compile(rb'\\(["\\])')
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def parameters_of(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Split a header's value from its parameters (RFC 9110, section 5.6.6).

    The value and parameter names are lower-cased; the last of duplicate parameters counts.
    """
    kind, semicolon, rest = value.partition(b";")
    found = {}
    for name, text in _PARAMETER.findall(semicolon + rest):
        quoted = len(text) > 1 and text[:1] == text[-1:] == b'"'
        found[name.lower()] = _ESCAPED.sub(rb"\1", text[1:-1]) if quoted else text.strip(b" \t")
    return kind.strip(b" \t").lower(), found


def boundary_of(parameters: Mapping[bytes, bytes]) -> bytes:
    """Return the boundary of a Content-Type. Raises `MalformedMultipartError` if it is invalid."""
    boundary = parameters.get(b"boundary", b"")
    if not boundary:
        raise MalformedMultipartError("the Content-Type has no boundary")
    if len(boundary) > _MAX_BOUNDARY_BYTES:
        raise MalformedMultipartError(f"the boundary is longer than {_MAX_BOUNDARY_BYTES} bytes")
    return boundary


def parts_of(body: bytes, boundary: bytes) -> Iterator[tuple[Headers, bytes]]:
    """Yield the headers and the content of each part.

    Text before the first boundary or after the last one, and white space after a boundary, is
    ignored (RFC 2046, section 5.1.1). Raises `MalformedMultipartError`.
    """
    line = rb"--%s(?:(--)|[ \t]{0,%d}+\r\n)" % (re.escape(boundary), _MAX_PADDING)
    delimiter = _Delimiter(b"\r\n--" + boundary, re.compile(rb"\r\n" + line))
    found = re.match(line, body) or delimiter.search(body, 0)
    if found is None:
        raise MalformedMultipartError(
            f"the boundary {shortened(boundary)!r} of the Content-Type is not in the body, on its "
            "own line and followed by CR LF"
        )
    while found[1] is None:
        following = delimiter.search(body, found.end())
        if following is None:
            raise MalformedMultipartError("the form ends without its closing boundary")
        yield _part(body, found.end(), following.start())
        found = following


@dataclass(frozen=True, slots=True)
class _Delimiter:
    """The line between parts: its fixed beginning, and a pattern for all of it."""

    beginning: bytes
    pattern: re.Pattern[bytes]

    def search(self, body: bytes, start: int) -> re.Match[bytes] | None:
        """Find the next one, window by window: a search blocks all other threads."""
        overlap = len(self.beginning) + _MAX_PADDING + 2
        while start < len(body):
            end = start + _WINDOW + overlap
            # A plain search takes a tenth of the pattern's time.
            at = body.find(self.beginning, start, end)
            if at >= 0 and (found := self.pattern.search(body, at, end)):
                return found
            start += _WINDOW
        return None


def _part(body: bytes, start: int, end: int) -> tuple[Headers, bytes]:
    if body.startswith(b"\r\n", start, end):
        return {}, body[start + 2 : end]
    head_end = body.find(b"\r\n\r\n", start, min(end, start + _MAX_HEAD_BYTES))
    if head_end < 0:
        raise MalformedMultipartError(
            f"the headers of a part have no end or are longer than {_MAX_HEAD_BYTES} bytes"
        )
    lines = _FOLD.sub(b" ", body[start:head_end]).split(b"\r\n")
    if len(lines) > _MAX_HEADERS:
        raise MalformedMultipartError(f"a part has more than {_MAX_HEADERS} headers")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name):
            raise MalformedMultipartError(f"a part's header {shortened(line)!r} has no valid name")
        headers[name.lower()] = value.strip(b" \t")
    return headers, body[head_end + 4 : end]


def names_a_file(parameters: Mapping[bytes, bytes]) -> bool:
    """Return whether a Content-Disposition marks a file: `filename` or `filename*` (RFC 8187)."""
    return any(name.partition(b"*")[0] == b"filename" for name in parameters)


def file_name(parameters: Mapping[bytes, bytes]) -> str | None:
    """Return a file's name for display, shortened and without control characters.

    `filename*` takes precedence (RFC 6266, section 4.3). None if there is no name or it is empty.
    """
    encoded = parameters.get(b"filename*", b"").split(b"'", 2)
    if len(encoded) == 3 and encoded[2]:
        charset = "latin-1" if encoded[0].lower() == b"iso-8859-1" else "utf-8"
        name = unquote_to_bytes(encoded[2]).decode(charset, "replace")
    else:
        # Browsers encode a quotation mark this way (HTML, multipart/form-data encoding algorithm).
        name = parameters.get(b"filename", b"").decode("utf-8", "replace").replace("%22", '"')
    if name[1:3] == ":\\" or name[:2] == "\\\\":  # a full Windows path
        name = name.rpartition("\\")[2]
    return _CONTROL.sub("\ufffd", name[:_MAX_NAME_CHARACTERS]) or None
