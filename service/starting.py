"""Sets up standard streams and signals before anything large is imported."""

from __future__ import annotations

import _thread
import os
import signal
import sys
from collections.abc import Callable

INTERRUPTED = 128 + signal.SIGINT  # exit status, as shells report it


def open_missing_streams() -> None:
    """Open standard streams that are closed, as by `2>&-`, on /dev/null.

    Otherwise the next file or connection would get such a descriptor, and libraries' output.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - stays open


def switch_threads_often() -> None:
    """Make a thread keep the GIL for 0.1 ms at most while another wants it.

    With the default of 5 ms, a runner whose batch has ended waits for the event loop, busy with
    other answers, and its core idles: on two cores, 32 clients of the built-in model got 159
    answers a second with the default and 190 with this.
    """
    sys.setswitchinterval(0.0001)


def signals_to_stop_at() -> list[signal.Signals]:
    """Return the signals that stop the service, without those ignored by nohup and the like."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


class LeaveAtSignal:
    """Exits the process at once on a stop signal, until the server takes over signal handling.

    Nothing has been accepted yet, so that is a clean stop. It is done on a separate thread: Python
    runs handlers between two steps of the main thread, which may spend seconds opening a model or
    hold the very lock that a handler needs. It skips the interpreter's shutdown, which aborts while
    another thread opens a model.
    """

    def __init__(self) -> None:
        self.before_leaving: Callable[[], None] = lambda: None
        self._news, self._teller = os.pipe()
        os.set_blocking(self._teller, False)

    def begin(self) -> None:
        """Exit the process on a signal from here on."""
        _thread.start_new_thread(self._wait, ())
        signal.set_wakeup_fd(self._teller, warn_on_full_buffer=False)
        for number in signals_to_stop_at():
            signal.signal(number, self._tell)

    def _tell(self, number: int, _: object) -> None:
        """Wake the thread even if an event loop has replaced the wakeup file descriptor."""
        try:  # noqa: SIM105 - `contextlib` would be the largest import here
            os.write(self._teller, bytes([number]))
        except BlockingIOError:  # the pipe is full, so the thread will wake anyway
            pass

    def _wait(self) -> None:
        number = os.read(self._news, 1)[0]
        try:
            self.before_leaving()
        finally:
            os._exit(INTERRUPTED if number == signal.SIGINT else 0)
