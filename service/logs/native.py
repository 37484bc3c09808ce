"""Turns what native libraries print on descriptor 2 into log lines.

libtiff, ONNX Runtime and CUDA print there, bypassing Python: lines that are not JSON, with a
write(2) that blocks while nothing reads. So the descriptor becomes a pipe whose writers never
block, and a separate process (`relay.py`, 5 MB) turns its lines into log lines. It can't be a
thread: the last output of a process that aborts or is killed is read after its end, and one that
aborts while holding the GIL would keep a thread from reading before.
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
_END_S = 3.0  # more than the relay waits for a slow reader

_RELAY = Path(__file__).with_name("relay.py")


@contextmanager
def native_output_logged(*, as_text: bool, level: str) -> Iterator[BinaryIO]:
    """Turn output on descriptor 2 into log lines within the block; yield the real stderr.

    Output that exceeds what the relay can read is dropped. If a fault signal ends the process, the
    stacks of all threads are printed too. Raises `StartupError` if the relay can't be started.
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
                with suppress(subprocess.TimeoutExpired):  # stderr has no reader; it ends later
                    relay.wait(_END_S)


def _divert(real: int, form: str, level: str) -> subprocess.Popen[bytes]:
    source, sink = os.pipe()
    try:
        with suppress(OSError):  # it exceeds this user's limit; 64 KiB will do
            fcntl.fcntl(sink, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        os.set_blocking(sink, False)
        # In its own session, so that signals to the whole group, such as Ctrl-C, don't end it.
        relay = subprocess.Popen(  # noqa: S603 - this package's own file
            [sys.executable, "-I", "-S", str(_RELAY), form, level],
            stdin=source, stdout=subprocess.DEVNULL, stderr=real, start_new_session=True,
        )  # fmt: skip
        os.dup2(sink, 2)
    except OSError as error:
        raise StartupError(
            f"the process that logs the output of libraries can't be started: {error.strerror}"
        ) from error
    finally:
        os.close(source)
        os.close(sink)
    return relay
