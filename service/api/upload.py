"""A request's body, read within its limits and never written to disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

from starlette.requests import ClientDisconnect, Request

from service.api.trace import Trace
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
    request: Request, trace: Trace, settings: Settings, gate: ByteGate
) -> AsyncGenerator[bytes]:
    """Read the whole body; its bytes count against `gate` until the block ends.

    Raises `ContentEncodingError`, `BodyTooLargeError` (by the Content-Length before a byte is
    read, else as soon as the limit is passed), `InflightBytesError`, `BodyTimeoutError`,
    `ClientDisconnectedError` or `EmptyBodyError`.
    """
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise ContentEncodingError(
            f"Content-Encoding {encoding!r} is not accepted; send the image as it is"
        )
    announced = int(request.headers.get("content-length", "0"))
    _check_size(announced, settings)
    gate.check(announced)
    with _held_bytes(gate) as hold:
        body = await _read(request, trace, settings, hold)
        trace.note_receive()
        if not body:
            raise EmptyBodyError("the body has no bytes; send an image, a form or JSON")
        yield body


class _Hold:
    """Bytes taken from a gate as they arrive: a mere announcement must not keep others out."""

    def __init__(self, gate: ByteGate) -> None:
        self._gate = gate
        self.size = 0

    def grow_to(self, size: int) -> None:
        self._gate.take(size - self.size)
        self.size = size


@contextmanager
def _held_bytes(gate: ByteGate) -> Generator[_Hold]:
    hold = _Hold(gate)
    try:
        yield hold
    finally:
        gate.give_back(hold.size)


async def _read(request: Request, trace: Trace, settings: Settings, hold: _Hold) -> bytes:
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.body_timeout_s - trace.elapsed_s()):
            async for chunk in request.stream():
                size += len(chunk)
                _check_size(size, settings)
                hold.grow_to(size)
                if chunk:
                    chunks.append(chunk)
    except TimeoutError:
        raise BodyTimeoutError(
            f"only {size} bytes of the body arrived within {settings.body_timeout_s:g} s "
            "(body_timeout_s)"
        ) from None
    except ClientDisconnect:
        raise ClientDisconnectedError(
            f"the client went away after {size} bytes of the body"
        ) from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _check_size(size: int, settings: Settings) -> None:
    if size > settings.max_body_bytes:
        raise BodyTooLargeError(
            f"the body is larger than {settings.max_body_bytes} bytes (max_body_bytes)"
        )


@asynccontextmanager
async def cancelled_when_client_leaves(request: Request) -> AsyncGenerator[None]:
    """Cancel the block when the client disconnects; use it once the body is read.

    Cancelling the block cancels the futures that it awaits, and so drops its tickets before they
    cost inference. Raises `ClientDisconnectedError` then.
    """
    task = asyncio.current_task()
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        if task is not None:
            task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not left or task is None or task.uncancel() > 0:
            raise
        raise ClientDisconnectedError("the client went away before the answer") from None
    finally:
        watcher.cancel()
