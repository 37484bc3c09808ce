"""Commands tell on stderr how far they are."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys

CODE = """
from model_export.progress import step
with step("reading"):
    print("result")
with step("counting", has_bar=True):
    pass
"""


def test_elsewhere_than_on_a_terminal_each_step_is_a_line():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True,
                            check=True, timeout=60)  # fmt: skip
    assert result.stdout == "result\n"
    assert result.stderr == "reading ...\ncounting ...\n"


def test_a_terminal_has_a_display_that_leaves_no_line():
    """A step with a bar of its own has none beside it."""
    mine, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.DEVNULL, stderr=theirs,
                          env=os.environ | {"TERM": "xterm"}) as process:  # fmt: skip
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # which tells that the other end was closed
            while some := os.read(mine, 4096):
                shown += some
    os.close(mine)
    assert process.returncode == 0
    assert b"reading" in shown
    assert b"counting" not in shown
    assert b" ..." not in shown
