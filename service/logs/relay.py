"""The process that turns the output of native libraries into log lines; see `native.py`.

It reads stdin to the end and writes to stderr. A bare interpreter runs it as a file, with only
small modules of the standard library, so that it takes 5 MB instead of 30.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import time
from collections import deque

LONGEST = 800
"""Characters kept of a line. In UTF-8 they fit into `select.PIPE_BUF`."""

LINES_PER_S = 100
LAST_WORDS = 100
"""Lines kept of those over the rate: the last ones of a process may say why it ended."""

PATIENCE_S = 2.0
"""How long a line waits for a reader; after that, lines are dropped until there is room."""

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_WARNING = re.compile(r"\bwarning\b|\[[VIW]:onnxruntime", re.IGNORECASE)
_SEVERITY = {"debug": 0, "info": 1, "warning": 2, "error": 3}


class Relay:
    """Reads lines from one descriptor, and writes log lines to another."""

    def __init__(self, source: int, sink: int, form: str, least: str) -> None:
        self._source, self._sink = source, sink
        self._as_text = form == "text"
        self._least = _SEVERITY[least]
        self._rest = b""  # of a line whose end has not come
        self._skipping = False  # the rest of a line that is too long
        self._second = 0
        self._written = 0  # in that second
        self._over: deque[str] = deque(maxlen=LAST_WORDS)
        self._dropped = 0
        self._patience_s = PATIENCE_S

    def run(self) -> None:
        """Relay until the source has been closed by all processes that had it open."""
        waiting = select.poll()
        waiting.register(self._source, select.POLLIN)
        while True:
            if waiting.poll(1000 if self._dropped else None):
                data = os.read(self._source, 65536)
                if not data:
                    break
                for line in self._lines(data):
                    self._take(line)
            else:
                self._tell_dropped(0)
        if self._rest:
            self._take(self._rest)
        self._patience_s = PATIENCE_S
        self._tell_dropped(len(self._over))
        for text in self._over:
            self._write("native_output", _severity(text), text=text)

    def _lines(self, data: bytes) -> list[bytes]:
        *lines, rest = (self._rest + data).split(b"\n")
        if self._skipping and lines:
            lines.pop(0)
            self._skipping = False
        if self._skipping:
            rest = b""
        elif len(rest) > 4 * LONGEST:  # bytes: the most that many characters can take
            lines.append(rest)
            rest, self._skipping = b"", True
        self._rest = rest
        return lines

    def _take(self, line: bytes) -> None:
        text = _COLOR.sub("", line.decode("utf-8", "replace")).rstrip().expandtabs()
        text = _CONTROL.sub("\ufffd", text)
        level = _severity(text)
        if not text or _SEVERITY[level] < self._least:
            return
        if len(text) > LONGEST:
            text = f"{text[:LONGEST]}... ({len(text)} characters)"
        if int(time.monotonic()) != self._second:
            self._tell_dropped(0)
            self._second, self._written = int(time.monotonic()), 0
        self._written += 1
        if self._written > LINES_PER_S or not self._write("native_output", level, text=text):
            self._over.append(text)
            self._dropped += 1

    def _tell_dropped(self, still: int) -> None:
        """Log how many lines were dropped, except `still` of them that are still kept."""
        lost = self._dropped - still
        if lost <= 0 or self._write("native_lines_dropped", "warning", count=lost):
            self._dropped = still
            if not still:
                self._over.clear()

    def _write(self, event: str, level: str, **values: object) -> bool:
        """Write a line; return False if the reader does not take it in time."""
        room = select.poll()
        room.register(self._sink, select.POLLOUT)
        if not room.poll(self._patience_s * 1000):
            self._patience_s = 0
            return False
        self._patience_s = PATIENCE_S
        try:
            # Short enough for a pipe to take it in one piece, and at once unless the server's log
            # has just used up the room.
            os.write(self._sink, _rendered(event, level, values, as_text=self._as_text))
        except OSError:
            return False
        return True


def _rendered(event: str, level: str, values: dict[str, object], *, as_text: bool) -> bytes:
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    timestamp = f"{date}.{nanoseconds // 1000:06}Z"
    if as_text:
        told = " ".join(f"{key}={value!r}" for key, value in values.items())[: LONGEST + 50]
        line = f"{timestamp} [{level:<9}] {event:<30} {told}"
    else:
        named = {"event": event, **values, "level": level, "timestamp": timestamp}
        line = json.dumps(named, ensure_ascii=False)
    return f"{line}\n".encode("utf-8", "replace")


def _severity(text: str) -> str:
    """Return "warning" for a line that calls itself one, otherwise "error"."""
    return "warning" if _WARNING.search(text) else "error"


def main() -> None:
    """Relay until the end, ignoring stop signals to get the service's last output."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    Relay(0, 2, sys.argv[1], sys.argv[2]).run()


if __name__ == "__main__":
    main()
