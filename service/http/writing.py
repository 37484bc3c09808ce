"""Writing to clients: an answer in one piece, and a time limit for clients that don't read it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class JoinedWrites:
    """A transport that sends an answer's head together with its body.

    uvicorn writes them separately. This saves a system call, and the client wakes up only once.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._held = b""
        self._muted = False

    def write(self, data: bytes) -> None:
        """Hold data until the next write or the event loop's next iteration."""
        if self._muted or self._transport.is_closing():
            self._held = b""  # uvloop raises where asyncio would drop it
        elif self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        elif data:
            self._held = data
            self._loop.call_soon(self._flush)

    def mute(self) -> None:
        """Send nothing more, not even held data: another answer replaces this one."""
        self._muted = True

    def close(self) -> None:
        """Close once everything has been sent."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the connection is closing or closed."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._held:
            self.write(b"")


class WriteTimeout:
    """Drops a connection whose client reads nothing of what is written to it for `seconds`.

    Otherwise its answers would be held forever, and shutdown would wait for it. A client that keeps
    reading, however slowly, is not dropped. `dropped` is called with the number of unsent bytes.
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

    def watch(self) -> None:
        """Have the protocol notified of what is not taken, which may be at once."""
        # With TLS a limit of 0 is reached by 0 bytes, and the kernel may leave 64 KiB more to it.
        high = 0 if self._transport.get_extra_info("sslcontext") is None else 1
        self._transport.set_write_buffer_limits(high=high, low=0)

    def start(self) -> None:
        """Start waiting for a client that has not read everything."""
        self.stop()
        left = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(self._seconds, self._judge, left)

    def stop(self) -> None:
        """Stop waiting: the client has read everything or is gone."""
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
