"""Ctrl-C and SIGTERM end the program alike: what is half done is removed, and one line says so."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While the block runs, SIGINT and SIGTERM raise `KeyboardInterrupt` in it.

    `received` has the signal that came. It is what counts: a library that is interrupted in the
    wrong place may fail with an error of its own.
    """

    received: signal.Signals | None = None

    def __enter__(self) -> Interrupts:
        """Take the signals over, but for those that are ignored, as in a shell's background."""
        self._before = {
            number: handler
            for number in _SIGNALS
            if (handler := signal.getsignal(number)) is not signal.SIG_IGN
        }
        for number in self._before:
            signal.signal(number, self._raise)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        raise KeyboardInterrupt
