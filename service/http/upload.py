"""A request's body, read within its limits and never written to disk."""

from __future__ import annotations

import asyncio

from service.batching.admission import HeldBytes
from service.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientDisconnectedError,
    ContentEncodingError,
    EmptyBodyError,
)
from service.http.exchange import Exchange
from service.wording import shortened


async def read_body(
    exchange: Exchange, held: HeldBytes, limit: int, codings: frozenset[bytes] = frozenset()
) -> bytes:
    """Read the whole body, of at most `limit` bytes, counting it in `held`.

    A body in one of the content `codings` is returned as it came.

    Raises `ContentEncodingError`, `BodyTooLargeError` (by the Content-Length before a byte is
    read, otherwise as soon as the limit is exceeded), `InflightBytesError`,
    `ClientDisconnectedError` or `EmptyBodyError`.
    """
    check_encoding(exchange.headers.get(b"content-encoding", b""), codings)
    _check_size(exchange, exchange.announced, limit)
    held.gate.check(exchange.announced)
    chunks: list[bytes] = []
    more = True
    while more:
        message = await exchange.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError(
                f"the client disconnected after {held.size} bytes of the body"
            )
        chunk = message.get("body", b"")
        _check_size(exchange, held.size + len(chunk), limit)
        held.grow_by(len(chunk))
        chunks.append(chunk)
        more = message.get("more_body", False)
    exchange.record.note_receive()
    if not held.size:
        raise EmptyBodyError("the body has no bytes; send an image, a form or JSON")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def read_small_body(exchange: Exchange, limit: int) -> bytes:
    """Read a body of at most `limit` bytes, which may be empty, within `body_timeout_s`.

    Raises `BodyTimeoutError` and, but for an empty one, what `read_body` raises.
    """
    runtime = exchange.runtime
    seconds = runtime.settings.body_timeout_s
    try:
        with HeldBytes(runtime.body_bytes) as held:
            async with asyncio.timeout(seconds):
                return await read_body(exchange, held, limit)
    except EmptyBodyError:
        return b""
    except TimeoutError:
        raise BodyTimeoutError(
            f"the body did not arrive within {seconds:g} s (body_timeout_s)"
        ) from None


def check_encoding(value: bytes, none: frozenset[bytes] = frozenset()) -> None:
    """Raise `ContentEncodingError` if a Content-Encoding names a coding.

    "identity", empty elements (RFC 9110, sections 8.4 and 5.6.1) and the names in `none` don't
    count as codings.
    """
    codings = {coding.strip().lower() for coding in value.split(b",")}
    if codings - {b"", b"identity"} - none:
        shown = shortened(value.decode("latin-1"))
        raise ContentEncodingError(
            f"Content-Encoding {shown!r} is not accepted; send the body uncompressed"
        )


def _check_size(exchange: Exchange, size: int, limit: int) -> None:
    if size > limit:
        setting = " (max_body_bytes)" if limit == exchange.runtime.settings.max_body_bytes else ""
        raise BodyTooLargeError(f"the body is larger than {limit} bytes{setting}")
