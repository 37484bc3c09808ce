"""The process that makes log lines of what native libraries print."""

from __future__ import annotations

import contextlib
import fcntl
import json
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service.logs import relay

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Gives a function that starts a relay, whose input and log are pipes."""
    started = []

    def begin(form: str = "json", level: str = "info") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-I", "-S", str(Path(relay.__file__)), form, level]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stderr):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def relayed(process: subprocess.Popen[bytes], data: bytes) -> list[dict[str, Any]]:
    _, log = process.communicate(data, timeout=60)
    return [json.loads(line) for line in log.splitlines()]


def texts(lines: list[dict[str, Any]]) -> list[object]:
    return [line["text"] for line in lines if line["event"] == "native_output"]


def test_each_line_is_an_event(start):
    first, second = relayed(start(), b"TIFFReadDirectory: odd tag\n\n  second \xff line")
    assert datetime.fromisoformat(str(first.pop("timestamp"))).tzinfo == UTC
    assert first == {
        "event": "native_output", "level": "error", "text": "TIFFReadDirectory: odd tag",
    }  # fmt: skip
    assert second["text"] == "  second \N{REPLACEMENT CHARACTER} line", "also without its end"


def test_a_line_is_logged_when_it_comes_and_not_at_the_end(start):
    process = start()
    process.stdin.write(b"hello\n")
    process.stdin.flush()
    assert json.loads(process.stderr.readline())["text"] == "hello"


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("TIFFFetchNormalTag: Warning, Incorrect value", "warning"),
        ("\x1b[0;93m2025-01-01 12:00:00 [W:onnxruntime:, graph.cc:1] Removing\x1b[m", "warning"),
        ("\x1b[1;31m2025-01-01 12:00:00 [E:onnxruntime:, sess.cc:1] Failed\x1b[m", "error"),
        ("terminate called without an active exception", "error"),
    ],
)
def test_what_calls_itself_a_warning_is_one(start, text, level):
    (line,) = relayed(start(), f"{text}\n".encode())
    assert line["level"] == level
    assert "\x1b" not in str(line["text"])
    assert relayed(start(level="warning"), f"{text}\n".encode())
    assert len(relayed(start(level="error"), f"{text}\n".encode())) == (level == "error")


def test_lines_are_bounded_in_length(start):
    lines = relayed(start(), b"x" * 300_000 + b"\nshort\n" + "\U0001f600".encode() * 10_000)
    first, second, third = texts(lines)
    assert str(first).startswith("xxx")
    assert second == "short"
    assert max(len(str(first)), len(str(third))) < relay.LONGEST + 50


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("character", ["\x01", '"', "\x9b", "\U0001f600", "\U000e0001", "\ufffd"])
def test_whatever_a_line_holds_a_pipe_takes_it_in_one_piece(start, form, character):
    """And it is one line, without control characters."""
    _, log = start(form).communicate(f"{character * 2000}\n".encode(), timeout=60)
    assert log.endswith(b"\n")
    assert log.count(b"\n") == 1
    assert len(log) <= 4096
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in log.decode().rstrip("\n"))
    if form == "json":
        json.loads(log)


def test_the_form_of_text_is_that_of_the_log(start):
    _, log = start("text").communicate(b"odd tag\n", timeout=60)
    timestamp, rest = log.decode().split(" ", 1)
    assert datetime.fromisoformat(timestamp).tzinfo == UTC
    assert rest == f"[error    ] {'native_output':<30} text='odd tag'\n"


def test_lines_are_bounded_in_rate_and_the_last_words_are_kept(start):
    """A library that prints for each pixel must not fill the disk, nor hide why it ended."""
    flood = b"".join(b"%d\n" % number for number in range(20_000))
    lines = relayed(start(), flood + b"terminate called\n")
    found = texts(lines)
    assert found[0] == "0"
    assert found[-1] == "terminate called"
    lost = [line["count"] for line in lines if line["event"] == "native_lines_dropped"]
    assert lost, "and told of, each second"
    assert sum(lost) + len(found) == 20_001
    assert len(found) < 20 * relay.LINES_PER_S


def test_a_log_that_nobody_reads_does_not_keep_it_from_reading(start):
    """Else the pipe fills up; what was printed meanwhile is counted once there is a reader."""
    process = start()
    size = fcntl.fcntl(process.stderr, fcntl.F_SETPIPE_SZ, 4096)
    total = 100
    for _ in range(total):  # each longer than the log's pipe holds several of
        process.stdin.write(b"x" * 700 + b"\n")
    process.stdin.write(b"y" * 10 * size)
    process.stdin.flush()
    while unread(process.stdin.fileno()):
        pass
    process.stdin.close()
    assert process.wait(60) == 0, "it ends, though nobody has read"
    lines = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert len(texts(lines)) < total


def unread(descriptor: int) -> int:
    """How much of a pipe has not been read, in bytes."""
    found = fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4))
    return int.from_bytes(found, sys.byteorder)


def test_a_log_whose_reader_is_gone_ends_nothing(start):
    process = start()
    process.stderr.close()
    process.stdin.write(b"nobody reads\n" * 1000)
    process.stdin.flush()
    while unread(process.stdin.fileno()):
        pass
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(60) == 0


def test_signals_to_end_do_not_end_it(start):
    """It has last words to wait for."""
    process = start()
    process.stdin.write(b"started\n")
    process.stdin.flush()
    process.stderr.readline()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        process.send_signal(number)
    assert texts(relayed(process, b"last\n")) == ["last"]
