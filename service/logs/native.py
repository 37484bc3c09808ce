"""What native libraries print on descriptor 2 becomes log lines.

libtiff, ONNX Runtime and CUDA print there whatever Python thinks of it: lines that are no JSON, and
in a write(2) that waits when nobody reads. So the descriptor becomes a pipe that never makes its
writers wait, and a process of its own (`relay.py`, 5 MB) makes lines of the log from it. Not a
thread: the last words of a process that aborts, or is killed, are read after its end, and who
aborts while holding Python's lock would keep a thread from reading them before.
"""

from __future__ import annotations

import faulthandler
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from service.errors import StartupError

_PIPE_BYTES = 256 * 1024
_END_S = 3.0  # more than the relay waits for a reader that is slow

_RELAY = Path(__file__).with_name("relay.py")


@contextmanager
def native_output_logged(*, as_text: bool, level: str) -> Iterator[BinaryIO]:
    """Turn what is printed on descriptor 2 into log lines inside the block; gives the real stderr.

    What is printed is dropped where there is more than the relay can read. The stacks of all
    threads are printed, too, when a signal of a fault ends the process. Raises `StartupError` when
    the relay can't be started.
    """
    real = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)
    relay = None
    with open(real, "wb", buffering=0) as stderr:  # noqa: PTH123 - a number
        try:
            relay = _divert(real, "text" if as_text else "json", level)
            faulthandler.enable(2)
            yield stderr
        finally:
            os.dup2(real, 2)
            if relay is not None:
                with suppress(subprocess.TimeoutExpired):  # nobody reads; it ends by itself
                    relay.wait(_END_S)


def _divert(real: int, form: str, level: str) -> subprocess.Popen[bytes]:
    source, sink = os.pipe()
    try:
        with suppress(OSError):  # more than this user may have; 64 KiB will do
            fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(sink, False)
        # In a session of its own: a signal for the whole group, as Ctrl-C is one, must not end it.
        relay = subprocess.Popen(  # noqa: S603 - this package's own file
            [sys.executable, "-I", "-S", str(_RELAY), form, level],
            stdin=source, stdout=subprocess.DEVNULL, stderr=real, start_new_session=True,
        )  # fmt: skip
        os.dup2(sink, 2)
    except OSError as error:
        raise StartupError(
            f"the process that reads what libraries print can't be started: {error.strerror}"
        ) from error
    finally:
        os.close(source)
        os.close(sink)
    return relay
