"""The real program's log: whatever is printed, whether or not it is read, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from images import colored, encode
from PIL import Image
from process import PROGRAM, answering, client_of, serving
from wire import connect

PROGRAM_WHOSE_LIBRARY_PRINTS = """
import ctypes
import sys
from service.engine.builds import prepare_runtime
prepare_runtime()
from service.engine.cpu import CpuEngine

libc = ctypes.CDLL(None)
size, end = int(sys.argv.pop(1)), sys.argv.pop(1)
run = CpuEngine.run

def printing(self, pixels, outputs):
    libc.dprintf(2, b"printed %s\\n", b"x" * size)
    if end == "aborts" and (pixels[0][0, 0] == (1, 2, 250)).all():
        libc.abort()
    return run(self, pixels, outputs)

CpuEngine.run = printing
from service.cli import main
sys.exit(main())
"""

FATAL = encode(Image.new("RGB", (20, 12), (1, 2, 250)), "PNG")


def program(size: int, end: str = "goes on") -> list[str]:
    return [sys.executable, "-c", PROGRAM_WHOSE_LIBRARY_PRINTS, str(size), end]


def test_what_a_library_prints_is_an_event(model_folder):
    with serving("--models", model_folder, program=program(3)) as server:
        server.signal()
        assert server.exit_status() == 0  # with its log read to the end
        printed = [event["text"] for event in server.events if event["event"] == "native_output"]
        assert set(printed) == {"printed xxx"}


def test_the_last_words_of_a_process_that_aborts_are_in_its_log(model_folder):
    with serving("--models", model_folder, program=program(3, "aborts")) as server:
        with client_of(server) as client, pytest.raises(httpx.RemoteProtocolError):
            client.post("/v1/classify", content=FATAL)
        assert server.exit_status() == -signal.SIGABRT
        said = [str(event.get("text")) for event in server.events]
        assert "Fatal Python error: Aborted" in said
        assert any(" in printing" in line for line in said), "where it was"


def test_a_log_that_nobody_reads_does_not_hold_up_a_library_that_prints(model_folder):
    """A direct write to the log would block forever, on a thread that decodes and runs."""
    command = [*program(50_000), "serve", "--models", str(model_folder)]
    with answering(command, stderr=subprocess.PIPE) as (_, client):
        for _ in range(50):  # 2.5 MB printed, more than all pipes hold
            assert client.post("/v1/classify", content=colored()).status_code == 200


def test_it_serves_with_its_standard_streams_closed(model_folder):
    """None of its connections and files gets their descriptors, to which libraries print."""
    serve = [*program(3), "serve", "--models", str(model_folder)]
    command = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *serve]
    with answering(command) as (process, client):
        assert client.post("/v1/classify", content=colored()).status_code == 200
        streams = [str(Path(f"/proc/{process.pid}/fd/{n}").readlink()) for n in range(3)]
    assert streams[:2] == [os.devnull, os.devnull]
    assert streams[2].startswith("pipe:")


def test_a_mistake_with_stderr_closed_still_has_its_status():
    command = ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *PROGRAM, "serve", "--port", "99999"]
    ended = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")


def read_all(terminal: int) -> str:
    """Return what a terminal receives until its last program has ended."""
    shown = b""
    with contextlib.suppress(OSError):  # raised when the terminal ends
        while piece := os.read(terminal, 65536):
            shown += piece
    return shown.decode()


def test_a_terminal_shows_text_in_colour(model_folder):
    """Even though descriptor 2 itself is then a pipe."""
    terminal, slave = pty.openpty()
    command = [*program(3), "serve", "--models", str(model_folder)]
    try:
        with answering(command, stderr=slave) as (_, client):
            client.post("/v1/classify", content=colored())
        os.close(slave)
        shown = read_all(terminal)
    finally:
        os.close(terminal)
    request = next(line for line in shown.splitlines() if "request" in line)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", request)
    assert plain != request
    assert re.search(r"\[info +\] request +status=200 total_ms=\d", plain)
    assert "native_output" in shown
    assert not any(line.startswith("{") for line in shown.splitlines())


def test_a_request_is_logged_with_its_clients_address_and_a_path_that_is_cut(model_folder):
    """Even one that is not HTTP. A proxy's headers are not trusted."""
    with serving("--models", model_folder) as server:
        with client_of(server) as client:
            client.post("/v1/classify", content=colored(), headers={"X-Forwarded-For": "192.0.2.7"})
            assert server.wait_for("request")["client"] == "127.0.0.1"
            assert client.get("/" + "x" * 50_000).status_code == 404
            line = server.wait_for("request")
            assert str(line["path"]).startswith("/xxx")
            assert len(json.dumps(line)) < 1500
        with connect(server.url) as connection:
            connection.sendall(b"no request\r\n\r\n")
            assert server.wait_for("request")["client"] == "127.0.0.1"
