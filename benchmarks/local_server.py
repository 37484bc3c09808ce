"""Starts a server of this machine and sends it the load of `resnet-serve bench`."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from startup import free_port, gets_ready

from service.bench.options import read_options
from service.bench.prepare import Prepared
from service.bench.progress import Progress
from service.bench.run import measure

_STOP_S = 15.0


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready; `pid` is of its process."""

    name: str
    url: str
    pid: int


@contextmanager
def serving(name: str, command: Sequence[str]) -> Iterator[Running]:
    """Start a server (`--port` is added), wait until it is ready, stop it by its pid at the end.

    Raises `RuntimeError` with the end of its log when it does not get ready.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Every request is logged, as in real service, to a file that can't hold the server up.
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            [*command, "--port", str(port)],
            stderr=log,
            env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
        ) as process,
    ):
        try:
            if not gets_ready(process, url, 0.02):
                log.seek(0)
                end = log.read().decode("utf-8", "replace")[-2000:]
                raise RuntimeError(f"the {name} server did not get ready: {end}")
            yield Running(name, url, process.pid)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def load(server: Running, prepared: Prepared | None = None, **options: Any) -> dict[str, Any]:
    """Send one load, with options of `BenchOptions`, and give that run's figures.

    Raises `KeyboardInterrupt` for a run that was cut short, and a `StartupError` for options that
    can't be.
    """
    asked = read_options({"url": server.url, "server_pid": server.pid} | options)
    report = measure(asked, Progress(), prepared)
    run: dict[str, Any] = report["runs"][0]
    if report.get("interrupted"):
        raise KeyboardInterrupt
    return run
