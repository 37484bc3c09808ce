"""The file behind the log, which never blocks its callers."""

from __future__ import annotations

import json
import select
import threading
from collections import deque
from collections.abc import Callable
from io import RawIOBase
from typing import BinaryIO

_GATHER_S = 0.02
"""Lines within this time are written together: waking a thread for each costs more than a line."""


class LogWriter:
    """A file that never blocks its callers and never fails: a separate thread does the writing.

    The reader of the log may stop or go away; requests and signals must still be handled. At most
    `room` lines, or `room_bytes`, wait. Lines that don't fit or can't be written are dropped and
    counted, and the count is logged as soon as possible.
    """

    def __init__(self, file: BinaryIO, room: int = 10_000, room_bytes: int = 8 * 2**20) -> None:
        self.describe_dropped: Callable[[int], str] = _described
        self._file: RawIOBase | BinaryIO = file
        self._lines: deque[bytes] = deque()
        self._room, self._room_bytes = room, room_bytes
        self._held = self._held_bytes = 0  # including lines that are being written
        self._dropped = 0
        self._counts = threading.RLock()  # reentrant, since the garbage collector may log meanwhile
        self._some = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_all, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Queue text for writing; return its length, as files do."""
        line = text.encode("utf-8", "backslashreplace")
        with self._counts:
            if self._held < self._room and self._held_bytes + len(line) <= self._room_bytes:
                self._held += 1
                self._held_bytes += len(line)
                self._lines.append(line)
            else:
                self._dropped += 1
        if not self._some.is_set():
            self._some.set()
        return len(text)

    def flush(self) -> None:
        """Do nothing: avoiding waits for a reader is what this file is for."""

    def isatty(self) -> bool:
        """Return whether the file is a terminal."""
        return self._file.isatty()

    def close(self, timeout_s: float) -> None:
        """Write what is left, for at most `timeout_s` seconds."""
        self._closing.set()
        self._some.set()
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while self._lines or not self._closing.is_set():
            self._some.wait()
            self._closing.wait(_GATHER_S)
            self._some.clear()
            self._tell_dropped()
            while self._lines:
                self._write_some()
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        with self._counts:
            dropped, self._dropped = self._dropped, 0
        if dropped and not self._put(self.describe_dropped(dropped).encode()):
            with self._counts:
                self._dropped += dropped

    def _write_some(self) -> None:
        """Write as many lines as a pipe takes in one piece: other processes write there too."""
        lines = [self._lines.popleft()]
        size = len(lines[0])
        while self._lines and size + len(self._lines[0]) <= select.PIPE_BUF:
            lines.append(self._lines.popleft())
            size += len(lines[-1])
        written = self._put(b"".join(lines))
        with self._counts:
            self._held -= len(lines)
            self._held_bytes -= size
            if not written:
                self._dropped += len(lines)

    def _put(self, data: bytes) -> bool:
        """Write all of `data`; return whether that succeeded, since it can't be logged."""
        left = memoryview(data)
        try:
            while left:
                written = self._file.write(left)
                if written is None:  # full, and another process has made it non-blocking
                    self._wait_for_room()
                else:
                    left = left[written:]
        except (OSError, ValueError):
            return False
        return True

    def _wait_for_room(self) -> None:
        room = select.poll()
        room.register(self._file, select.POLLOUT)
        room.poll()


def _described(dropped: int) -> str:
    return json.dumps({"event": "log_lines_dropped", "count": dropped}) + "\n"
