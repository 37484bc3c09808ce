"""Which of several kinds of answer a client prefers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from service.errors import NotAcceptableError
from service.wording import shortened

JSON, OCTETS, PNG = "application/json", "application/octet-stream", "image/png"

_QUALITY = re.compile(rb"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")


def preferred(accept: bytes | None, offered: Sequence[str]) -> str:
    """Return the media type among `offered` that an Accept header prefers (RFC 9110, 12.5.1).

    Of equally preferred ones, and without the header, that is the first. Raises
    `NotAcceptableError`.
    """
    if not accept:
        return offered[0]
    ranges = [_range(part) for part in accept.lower().split(b",") if part.strip()]
    quality = {kind: _quality(kind.encode(), ranges) for kind in offered}
    best = max(offered, key=lambda kind: quality[kind])  # the first of the largest
    if not quality[best]:
        raise NotAcceptableError(
            f"Accept is {shortened(accept.decode('latin-1'))!r}; "
            f"this route answers {' or '.join(offered)}"
        )
    return best


def _range(text: bytes) -> tuple[bytes, float]:
    """Return a media range and its quality; parameters other than q don't matter here."""
    kind, *parameters = (part.strip() for part in text.split(b";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition(b"=")
        if name.strip() == b"q" and _QUALITY.fullmatch(value.strip()):
            quality = float(value)
    return kind, quality


def _quality(kind: bytes, ranges: Sequence[tuple[bytes, float]]) -> float:
    """Return the quality that the most specific matching range gives a media type."""
    of = dict(ranges)
    for matching in (kind, kind.partition(b"/")[0] + b"/*", b"*/*"):
        if matching in of:
            return of[matching]
    return 0.0
