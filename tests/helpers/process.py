"""Runs the real program as a process."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from waiting import PATIENCE_S
from wire import patient_client

PROGRAM = [str(Path(sys.executable).with_name("resnet-serve"))]
EXPORT = [str(Path(sys.executable).with_name("resnet-export"))]


_SETTINGS = {
    "RESNET_SERVE_CACHE_DIR": "none",  # the user who runs the tests has a cache too
    "RESNET_SERVE_RUNNERS": "2",  # set, so that no start measures parallelism
    "RESNET_SERVE_INTRA_OP_THREADS": "1",
}


def clean_environment(**variables: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RESNET_SERVE_")}
    return kept | _SETTINGS | variables


@contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a port for a program that can't report which one it got.

    It stays bound meanwhile, so that no other program gets it: that program can still bind it too,
    as long as only one of the two listens.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def run_to_end(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program that should end on its own."""
    return subprocess.run(
        command, env=clean_environment(**variables), capture_output=True, text=True, timeout=200,
        check=False,
    )  # fmt: skip


class Serving:
    """A running `resnet-serve serve`, its address and what it logs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, object]] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # A thread drains the pipe, since a full one would block the server.
        threading.Thread(target=self._read, daemon=True).start()
        self.url = str(self.wait_for("listening")["url"])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def _next(self) -> dict[str, object] | None:
        line = self._lines.get(timeout=PATIENCE_S)
        if line is None:
            return None
        assert line.startswith("{"), f"not a line of JSON: {line}"
        self.events.append(json.loads(line))
        return self.events[-1]

    def wait_for(self, event: str) -> dict[str, object]:
        """Read the log up to an event."""
        while (entry := self._next()) is not None:
            if entry["event"] == event:
                return entry
        raise AssertionError(f"ended without {event!r}: {self.events}")

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def exit_status(self) -> int:
        """Wait for the end and return the exit status; the rest of the log is kept."""
        while self._next() is not None:
            pass
        return self.process.wait(PATIENCE_S)


@contextmanager
def serving(
    *flags: object, ready: bool = True, program: Sequence[str] = PROGRAM, **variables: str
) -> Iterator[Serving]:
    """Start the program on a free port, and kill it afterwards if it is still running."""
    command = [*program, "serve", "--port", "0", "--log-format", "json", *map(str, flags)]
    with subprocess.Popen(
        command, env=clean_environment(**variables), stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            server = Serving(process)
            if ready:
                server.wait_for("model_ready")
            yield server
        finally:
            process.kill()


@contextmanager
def answering(
    command: list[str], **streams: Any
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Yield a ready server with its own standard streams, and stop it afterwards."""
    with (
        reserved_port() as port,
        subprocess.Popen(
            [*command, "--port", str(port)], env=clean_environment(), **streams
        ) as process,
    ):
        try:
            with patient_client(f"http://127.0.0.1:{port}", retries=10) as client:
                while client.get("/readyz").status_code != 200:
                    assert process.poll() is None
                yield process, client
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def client_of(server: Serving) -> httpx.Client:
    return patient_client(server.url)
