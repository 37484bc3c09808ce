"""Content codings: gzip and deflate (zlib), for the routes of protocols whose clients use them."""

from __future__ import annotations

import gzip
import zlib
from functools import partial

from service.batching.admission import HeldBytes
from service.batching.costs import Work
from service.batching.decode_pool import DecodePool
from service.errors import BodyTooLargeError, ContentEncodingError
from service.inference.deadline import RequestDeadline
from service.wording import shortened

CODINGS = frozenset({b"gzip", b"deflate"})

_EITHER = zlib.MAX_WBITS + 32  # zlib detects which of both it is
_PIECE = 2**20
_SMALL = 1024
_LEVEL = 1


async def decompressed(
    body: bytes, held: HeldBytes, limit: int, pool: DecodePool, due: RequestDeadline
) -> bytes:
    """Decompress a body on a thread, counting each piece in `held` before it is made.

    Raises `BodyTooLargeError` once it has more than `limit` bytes, `InflightBytesError`, or
    `ContentEncodingError` if it is damaged or has more than one coded part.
    """
    decoder, pieces, size, rest = zlib.decompressobj(_EITHER), [], 0, body
    while not decoder.eof:
        held.grow_by(_PIECE)
        try:
            piece = await pool.call(
                partial(decoder.decompress, rest, _PIECE),
                due.deadline,
                due.priority,
                Work("form", size=_PIECE),
            )
        except zlib.error as error:
            raise ContentEncodingError(f"the body can't be decompressed: {error}") from error
        rest = decoder.unconsumed_tail
        if not piece and not decoder.eof:
            raise ContentEncodingError("the body can't be decompressed: it ends early")
        size += len(piece)
        if size > limit:
            raise BodyTooLargeError(
                f"the body is larger than {limit} bytes once decompressed (max_body_bytes)"
            )
        pieces.append(piece)
    if decoder.unused_data:
        raise ContentEncodingError("the body has data behind its compressed part")
    return b"".join(pieces)


def coding_of(value: bytes) -> bytes:
    """Return the one coding that a Content-Encoding names, empty for none.

    Raises `ContentEncodingError` if there are several.
    """
    named = [coding.strip().lower() for coding in value.split(b",")]
    codings = [coding for coding in named if coding not in {b"", b"identity"}]
    if len(codings) > 1:
        shown = shortened(value.decode("latin-1"))
        raise ContentEncodingError(f"Content-Encoding {shown!r} names several; use one")
    return codings[0] if codings else b""


def accepted_coding(value: bytes) -> bytes:
    """Return the coding to answer with by an Accept-Encoding: gzip or deflate, or empty for none.

    A coding with a weight of 0 is not accepted (RFC 9110, section 12.5.3).
    """
    offered = set()
    for item in value.lower().split(b","):
        coding, _, weight = item.replace(b" ", b"").partition(b";q=")
        if not weight or weight.rstrip(b"0") not in {b"", b"0."}:
            offered.add(coding)
    return next((coding for coding in (b"gzip", b"deflate") if coding in offered), b"")


def compressed(body: bytes, coding: bytes) -> bytes:
    """Compress a body quickly rather than well."""
    if coding == b"gzip":
        return gzip.compress(body, _LEVEL, mtime=0)
    return zlib.compress(body, _LEVEL)


def is_worth_it(body: bytes) -> bool:
    """Return whether compressing a body saves more than it costs."""
    return len(body) > _SMALL
