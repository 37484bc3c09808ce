"""A request's body, read within its limits and never written to disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from service.api.exchange import Exchange
from service.batching.admission import ByteGate
from service.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ClientDisconnectedError,
    ContentEncodingError,
    EmptyBodyError,
)
from service.settings import Settings


@asynccontextmanager
async def read_body(
    exchange: Exchange, settings: Settings, gate: ByteGate
) -> AsyncGenerator[bytes]:
    """Read the whole body; its bytes count against `gate` until the block ends.

    Raises `ContentEncodingError`, `BodyTooLargeError` (by the Content-Length before a byte is
    read, else as soon as the limit is passed), `InflightBytesError`, `BodyTimeoutError`,
    `ClientDisconnectedError` or `EmptyBodyError`.
    """
    encoding = exchange.headers.get(b"content-encoding", b"identity").lower()
    if encoding != b"identity":
        raise ContentEncodingError(
            f"Content-Encoding {encoding.decode('latin-1')!r} is not accepted; "
            "send the image as it is"
        )
    _check_size(exchange.announced, settings)
    gate.check(exchange.announced)
    with _held_bytes(gate) as hold:
        body = await _read(exchange, settings, hold)
        exchange.trace.note_receive()
        if not body:
            raise EmptyBodyError("the body has no bytes; send an image, a form or JSON")
        yield body


class _Hold:
    """Bytes taken from a gate as they arrive: a mere announcement must not keep others out."""

    def __init__(self, gate: ByteGate) -> None:
        self._gate = gate
        self.size = 0

    def grow_by(self, size: int) -> None:
        self._gate.take(size)
        self.size += size


@contextmanager
def _held_bytes(gate: ByteGate) -> Generator[_Hold]:
    hold = _Hold(gate)
    try:
        yield hold
    finally:
        gate.give_back(hold.size)


async def _read(exchange: Exchange, settings: Settings, hold: _Hold) -> bytes:
    chunks: list[bytes] = []
    try:
        async with asyncio.timeout(settings.body_timeout_s - exchange.trace.elapsed_s()):
            more = True
            while more:
                message = await exchange.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnectedError(
                        f"the client went away after {hold.size} bytes of the body"
                    )
                chunks.append(message.get("body", b""))
                _check_size(hold.size + len(chunks[-1]), settings)
                hold.grow_by(len(chunks[-1]))
                more = message.get("more_body", False)
    except TimeoutError:
        raise BodyTimeoutError(
            f"only {hold.size} bytes of the body arrived within {settings.body_timeout_s:g} s "
            "(body_timeout_s)"
        ) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _check_size(size: int, settings: Settings) -> None:
    if size > settings.max_body_bytes:
        raise BodyTooLargeError(
            f"the body is larger than {settings.max_body_bytes} bytes (max_body_bytes)"
        )
