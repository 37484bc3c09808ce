"""Messages between the processes of the load generator."""

from __future__ import annotations

import asyncio
import pickle
import socket
from dataclasses import dataclass
from typing import Any

from service.bench.summary import Window

_SIZE_BYTES = 8
_BUFFER = 2**20  # bytes; samples come by the megabyte


@dataclass(frozen=True, slots=True)
class Ready:
    """From a worker: it is ready to send its share."""


@dataclass(frozen=True, slots=True)
class Go:
    """To a worker: send from `start` on; with `tell`, report progress every second."""

    start: float
    window: Window
    tell: bool


@dataclass(frozen=True, slots=True)
class Done:
    """From a worker: its share has been sent and the last answer has arrived."""


@dataclass(frozen=True, slots=True)
class Finish:
    """To a worker: drop requests in progress and send the outcome."""


@dataclass(frozen=True, slots=True)
class Finishing:
    """From a worker, at once: it is preparing the outcome, which has `samples` samples."""

    samples: int


class Channel:
    """One end of a socket pair. Both ends are this program, so pickles are safe."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._size: int | None = None

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """Return a channel over a socket, which is closed with it."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_BUFFER))

    async def send(self, message: object) -> None:
        """Send a message; raises `ConnectionError` if the other process has ended."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if self._writer.is_closing():  # uvloop's write() would raise RuntimeError
            raise ConnectionResetError("the other process has ended")
        self._writer.write(len(data).to_bytes(_SIZE_BYTES) + data)
        await self._writer.drain()

    async def receive(self) -> Any:
        """Return the next message; raises `EOFError` if the other process has ended.

        If a call is cancelled, the next one continues with its message.
        """
        try:
            if self._size is None:
                self._size = int.from_bytes(await self._reader.readexactly(_SIZE_BYTES))
            data = await self._reader.readexactly(self._size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise EOFError from error
        self._size = None
        return pickle.loads(data)  # noqa: S301 - from this program, see above

    def close(self) -> None:
        """Close this end; the other one will notice."""
        self._writer.close()
