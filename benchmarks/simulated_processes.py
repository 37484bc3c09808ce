"""Starts the servers of `simulated_server.py` and sends them the load of `resnet-serve bench`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from startup import free_port, gets_ready

from service.bench.options import BenchOptions
from service.bench.progress import Progress
from service.bench.run import measure

_SERVER = str(Path(__file__).with_name("simulated_server.py"))


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is ready; `pid` is of its process."""

    kind: str
    url: str
    pid: int


@contextmanager
def serving(kind: str, table: Mapping[int, float], flags: Sequence[str]) -> Iterator[Running]:
    """Start a server of that kind, wait until it is ready, and stop it by its pid at the end.

    Raises `RuntimeError` with the end of its log when it does not get ready.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    text = ",".join(f"{size}:{ms:g}" for size, ms in table.items())
    command = [sys.executable, _SERVER, kind, text, "--port", str(port), *flags]
    # Every request is logged, as in real service, to a file that can't hold the server up.
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, stderr=log, env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"}
        ) as process,
    ):
        try:
            if not gets_ready(process, url, 0.02):
                log.seek(0)
                end = log.read().decode("utf-8", "replace")[-2000:]
                raise RuntimeError(f"the {kind} server did not get ready: {end}")
            yield Running(kind, url, process.pid)
        finally:
            process.terminate()


def load(server: Running, **options: Any) -> dict[str, Any]:
    """Send one load, with options of `BenchOptions`, and give that run's figures.

    Raises `KeyboardInterrupt` for a run that was cut short.
    """
    asked = BenchOptions.model_validate({"url": server.url, "server_pid": server.pid} | options)
    report = measure(asked, Progress())
    run: dict[str, Any] = report["runs"][0]
    if report.get("interrupted"):
        raise KeyboardInterrupt
    return run
