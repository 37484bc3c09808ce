"""What has to be in order before anything large is imported: standard streams and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest


def started(code: str, **options) -> subprocess.Popen[str]:
    """A Python that runs `code` in the place of the service."""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **options,
    )  # fmt: skip


def test_nothing_large_is_imported_before_signals_are_handled():
    """Until then a signal kills, or, as process 1 of a container, is lost."""
    code = "import sys, service.cli; print(*sys.modules)"
    output, _ = started(code).communicate(timeout=60)
    assert {"argparse", "pydantic", "numpy", "structlog", "typing"}.isdisjoint(output.split())


# Some minutes in a call of C, as of the opening of a large model.
_BUSY = """
import hashlib
from service.starting import LeaveAtSignal
leaving = LeaveAtSignal()
leaving.begin()
leaving.before_leaving = lambda: print("left", flush=True)
print("busy", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)]
)
def test_a_signal_ends_the_start_at_once_whatever_it_is_doing(number, status):
    """Without a traceback, and after what is left to be done, as writing the log."""
    with started(_BUSY) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "busy\n"
        process.send_signal(number)
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (status, "left\n", "")


def test_a_signal_that_was_ignored_at_the_start_stays_ignored():
    """As SIGHUP under nohup."""
    code = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from service.starting import LeaveAtSignal, signals_to_stop_at\n"
        "LeaveAtSignal().begin()\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
        "print(*(number.name for number in signals_to_stop_at()))"
    )
    output, errors = started(code).communicate(timeout=60)
    assert (output, errors) == ("SIGTERM SIGINT\n", "")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_closed_standard_stream_leads_nowhere_and_its_number_is_taken(number, tmp_path):
    said = tmp_path / "said"
    code = (
        "import os, sys\n"
        "from service.starting import open_missing_streams\n"
        "open_missing_streams()\n"
        f"said = open({str(said)!r}, 'w')\n"
        "for stream in (sys.stdout, sys.stderr): print('x', file=stream, flush=True)\n"
        f"print(said.fileno(), repr(sys.stdin.read()), os.readlink('/proc/self/fd/{number}'), "
        "file=said)"
    )
    process = started(code, stdin=subprocess.DEVNULL, preexec_fn=lambda: os.close(number))
    process.communicate(timeout=60)
    assert process.returncode == 0
    opened, read, target = said.read_text("utf-8").split()
    assert int(opened) > 2
    assert read == "''"
    assert target == "/dev/null"
