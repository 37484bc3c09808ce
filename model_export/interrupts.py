"""Makes Ctrl-C and SIGTERM end the program alike, removing partial results, with one line."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 5.0  # longer than it takes to end
_SOON_S = 0.05  # after the destructor, or the fork, that swallowed it


class Interrupts:
    """While the block runs, the first SIGINT or SIGTERM raises `KeyboardInterrupt` in it.

    `received` has the signal that came. It is authoritative, since a library that is interrupted
    may raise an error of its own. Python swallows exceptions in destructors and while forking, and
    libraries may do so anywhere, so if the block continues anyway, it is interrupted again. Further
    signals are ignored, since they would cut short what the first one cleans up.
    """

    received: signal.Signals | None = None

    def __enter__(self) -> Interrupts:
        """Install the handlers, except for signals that are ignored, as in background jobs."""
        self._before = {
            number: handler
            for number in _SIGNALS
            if (handler := signal.getsignal(number)) not in (signal.SIG_IGN, None)
        }
        for number in self._before:
            signal.signal(number, self._raise)
        self._alarm_before = signal.signal(signal.SIGALRM, self._raise_again) or signal.SIG_DFL
        self._hook_before, sys.unraisablehook = sys.unraisablehook, self._swallowed
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Restore the previous handlers."""
        sys.unraisablehook = self._hook_before
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._alarm_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        if self.received:
            return
        self.received = signal.Signals(number)
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_S, _AGAIN_S)
        raise KeyboardInterrupt

    def _raise_again(self, _number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def _swallowed(self, error: UnraisableHookArgs) -> None:
        """Interrupt soon again, instead of printing the traceback, if it was the interruption."""
        if self.received and issubclass(error.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, _SOON_S, _AGAIN_S)
        else:
            self._hook_before(error)
