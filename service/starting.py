"""What has to be in order before anything large is imported: standard streams and signals."""

from __future__ import annotations

import _thread
import os
import signal
import sys
from collections.abc import Callable

INTERRUPTED = 128 + signal.SIGINT  # as a shell has it


def open_missing_streams() -> None:
    """Let standard streams that are closed, as by `2>&-`, lead to /dev/null.

    Else the next file or connection would get such a number, and with it what a library prints.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - stays open


def signals_to_stop_at() -> list[signal.Signals]:
    """Return the signals that stop the service: not those that nohup and the like have ignored."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


class LeaveAtSignal:
    """Ends the process at once when it is to stop, until the server takes the signals over.

    Nothing has been accepted yet, so that is a clean stop. A thread of its own sees to it: Python's
    handlers run between two steps of the main thread, which may be opening a model for seconds, or
    hold the very lock that a handler needs. It ends without the interpreter's own end, which aborts
    while another thread opens a model.
    """

    def __init__(self) -> None:
        self.before_leaving: Callable[[], None] = lambda: None
        self._news, self._teller = os.pipe()
        os.set_blocking(self._teller, False)

    def begin(self) -> None:
        """End the process at a signal from here on."""
        _thread.start_new_thread(self._wait, ())
        signal.set_wakeup_fd(self._teller, warn_on_full_buffer=False)
        for number in signals_to_stop_at():
            signal.signal(number, self._tell)

    def _tell(self, number: int, _: object) -> None:
        """Tell the thread also where an event loop has set a file of its own to be woken by."""
        try:  # noqa: SIM105 - `contextlib` would be the largest import of the start
            os.write(self._teller, bytes([number]))
        except BlockingIOError:  # full of such news
            pass

    def _wait(self) -> None:
        number = os.read(self._news, 1)[0]
        try:
            self.before_leaving()
        finally:
            os._exit(INTERRUPTED if number == signal.SIGINT else 0)
