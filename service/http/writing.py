"""Writing to clients: an answer in one piece, and an end to waiting for those who never read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class JoinedWrites:
    """A transport that sends an answer's head along with the body.

    uvicorn writes them one after the other. One system call less, and the client wakes once.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held = b""
        self._muted = False

    def write(self, data: bytes) -> None:
        """Hold data until the next write, or until the event loop comes round."""
        if self._muted or self._transport.is_closing():
            self._held = b""  # uvloop raises where asyncio would drop it
        elif self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        elif data:
            self._held = data
            self._loop.call_soon(self._flush)

    def mute(self) -> None:
        """Send nothing more, neither what is held: another answer stands in its place."""
        self._muted = True

    def close(self) -> None:
        """Close once all is sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection is going."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._held:
            self.write(b"")


class WriteTimeout:
    """Drops a connection whose client takes none of what is written to it for `seconds`.

    Otherwise its answers would be held for ever, and a stop would wait for it. A client that takes
    some of them, however slowly, is waited for. `dropped` is told how many bytes were left.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        dropped: Callable[[int], None],
    ) -> None:
        self._transport, self._loop, self._seconds = transport, loop, seconds
        self._dropped = dropped
        self._timer: asyncio.TimerHandle | None = None
        # The protocol hears at once of what the kernel does not take, however little it is.
        transport.set_write_buffer_limits(high=0)

    def start(self) -> None:
        """Wait for the client, which has not taken all."""
        self.stop()
        left = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(self._seconds, self._judge, left)

    def stop(self) -> None:
        """End the wait: the client has taken all, or is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _judge(self, before: int) -> None:
        left = self._transport.get_write_buffer_size()
        if left < before:
            self.start()
            return
        self._timer = None
        self._dropped(left)
        self._transport.abort()
