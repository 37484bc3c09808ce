"""Shows progress on stderr: one updating line on a terminal, otherwise a line now and then."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TextIO

_EVERY_S, _EVERY_S_IN_A_FILE = 0.2, 10.0
_LONGEST = 100  # characters: most terminals are at least this wide


class Progress:
    """Shows progress until `clear` is called."""

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self.on_terminal = self._stream.isatty()
        self._every_s = _EVERY_S if self.on_terminal else _EVERY_S_IN_A_FILE
        self._shown_at = -math.inf if self.on_terminal else clock()

    def show(self, text: str) -> None:
        """Show a text, unless the last one was shown very recently."""
        if self._clock() - self._shown_at >= self._every_s:
            self._shown_at = self._clock()
            line = text[:_LONGEST]
            self._write(f"\r\x1b[K{line}" if self.on_terminal else f"{line}\n")

    def clear(self) -> None:
        """Remove the line on a terminal; lines in a file stay."""
        if self.on_terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # stderr has no reader any more, which is no reason to stop measuring
            self._every_s = math.inf
