"""What is printed on descriptor 2 becomes log lines, and last words get out however it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

START = """
import ctypes, os, signal, sys, threading
from service.logs.native import native_output_logged
libc, holding = ctypes.CDLL(None), ctypes.PyDLL(None)  # the latter keeps Python's lock
with native_output_logged(as_text=False, level="info") as log:
"""


def run(body: str, *, status: int = 0) -> list[str]:
    """What a program says whose `body` runs inside the block."""
    program = START + "".join(f"    {line}\n" for line in body.strip().splitlines())
    ended = subprocess.run(
        [sys.executable, "-c", program + "print('after', file=sys.stderr)"],
        stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == status, ended.stderr
    return ended.stderr.splitlines()


def texts(lines: list[str]) -> list[str]:
    return [json.loads(line)["text"] for line in lines if line.startswith("{")]


def test_what_libraries_and_child_processes_print_is_a_line_of_the_log():
    lines = run("""
libc.dprintf(2, b"from C\\n")
os.system("echo from a child >&2")
print("from Python", file=sys.stderr)
""")
    assert texts(lines) == ["from C", "from a child", "from Python"]
    assert lines[-1] == "after", "once the block has ended, descriptor 2 is what it was"


def test_the_block_gets_the_real_stderr():
    assert run("log.write(b'as it is\\n')")[0] == "as it is"


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("libc.abort()", -6),
        ("holding.abort()", -6),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -11),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9),
        ("threading.Thread(target=libc.abort).start(); signal.pause()", -6),
        ("os._exit(3)", 3),
        ("sys.exit(4)", 4),
    ],
)
def test_last_words_get_out_however_the_process_ends(end, status):
    """Also while Python's lock is held, when no other thread of it could read them."""
    found = texts(
        run(f'holding.dprintf(2, b"terminate called, %s\\n", b"what"); {end}', status=status)
    )
    assert found[0] == "terminate called, what"
    stacks = any(re.search(r'File "<string>", line \d+', text) for text in found)
    assert stacks == (status in {-6, -11}), "a fault also shows where Python was"


def test_an_interpreters_own_last_words_get_out():
    lines = run("ctypes.pythonapi.Py_FatalError(b'the end is here')", status=-6)
    assert any("the end is here" in text for text in texts(lines))


def test_an_exception_leaves_descriptor_2_as_it_was():
    lines = run("raise ValueError('out')", status=1)
    assert lines[-1] == "ValueError: out"


def test_whoever_prints_more_than_can_be_read_does_not_wait():
    """Python's lock is held meanwhile, and nobody reads before the end."""
    program = (
        START
        + """
    for _ in range(100):
        holding.dprintf(2, b"%s\\n", b"x" * 50_000)
    log.write(b"done\\n")
"""
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.wait(60) == 0
        assert process.stderr is not None
        assert "done\n" in process.stderr.readlines()


def test_where_the_relay_can_not_be_started_one_line_says_so():
    program = """
import sys
sys.executable = "/nonexistent"
from service.errors import StartupError
from service.logs.native import native_output_logged
try:
    with native_output_logged(as_text=False, level="info"):
        pass
except StartupError as error:
    print(error, file=sys.stderr)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.stderr.splitlines() == [
        "the process that logs the output of libraries can't be started: No such file or directory"
    ]
