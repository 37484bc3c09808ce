"""Starts a server with all its processes, watches them, and leaves none behind."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from service.bench.monitor import cpu_seconds, process_tree
from service.bench.reference import best_labels

_SET_CHILD_SUBREAPER = 36  # of prctl(2)
_START_S, _STOP_S, _KILL_S = 120.0, 10.0, 10.0
_LOG_LINES = 15

_libc = ctypes.CDLL(None, use_errno=True)


class ServerFailedError(Exception):
    """A server did not start, or did not answer an image rightly."""


def adopt_orphans() -> None:
    """Become the parent of descendants whose parents end, instead of process 1.

    So whatever a server starts stays in its tree, and what outlives the server in ours.
    """
    _libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class RunningServer:
    """A started server; its pid is the root of its processes."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log
        self.pid = process.pid

    def wait_until_right(self, url: str, image: bytes) -> float:
        """Post an image until it has an answer in the right form; return the seconds it took.

        Raises `ServerFailedError`, with the end of the log.
        """
        started, said = time.perf_counter(), "nothing"
        while time.perf_counter() - started < _START_S:
            if self._process.poll() is not None:
                raise self._failure(f"ended with status {self._process.returncode}")
            request = urllib.request.Request(  # noqa: S310 - of the loopback
                url, image, {"Content-Type": "application/octet-stream"}
            )
            try:
                with urllib.request.urlopen(request, timeout=_START_S) as answer:  # noqa: S310
                    best_labels(answer.read())
                    return time.perf_counter() - started
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                said = str(error)  # HTTPError and URLError are OSErrors
                time.sleep(0.1)
        raise self._failure(f"gave no right answer in {_START_S:.0f} s, at last: {said}")

    def memory_bytes(self) -> dict[str, int]:
        """Return the resident memory of all its processes, summed up.

        `rss` counts pages that processes share once for each of them, `pss` once in all.
        """
        sizes = {"rss": 0, "pss": 0}
        for process in process_tree(self.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = process.memory_full_info()
                sizes["rss"] += memory.rss
                sizes["pss"] += memory.pss
        return sizes

    def others_cpu_s(self) -> float:
        """Return the CPU seconds that this machine spent on neither the server nor this process.

        Between two loads' ends it grows by what disturbed them.
        """
        spent = psutil.cpu_times()
        busy = sum((spent.user, spent.nice, spent.system, spent.irq, spent.softirq, spent.steal))
        return busy - cpu_seconds(self.pid) - time.process_time()

    def _failure(self, what: str) -> ServerFailedError:
        lines = self._log.read_text("utf-8", "replace").splitlines()[-_LOG_LINES:]
        return ServerFailedError("\n  ".join([what, *lines]))


@contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], folder: Path
) -> Iterator[RunningServer]:
    """Run a server in a folder; at the end none of its processes is left."""
    log = folder / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the one who runs this, who then stops it
            preexec_fn=adopt_orphans,  # noqa: PLW1509 - no other thread runs here
        )
    try:
        yield RunningServer(process, log)
    finally:
        _stop(process)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder with a short name (there will be sockets in it), and remove it at the end."""
    folder = Path(tempfile.mkdtemp(prefix="peers-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, then end whatever is left of what it started."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut this short
    try:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        deadline = time.monotonic() + _KILL_S
        # Orphans have come to this process by now, which has no other children.
        while (left := process_tree(os.getpid())[1:]) and time.monotonic() < deadline:
            for orphan in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    orphan.kill()
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(orphan.pid, os.WNOHANG)  # else it stays as a zombie
            time.sleep(0.02)
        process.poll()
        if left:
            raise ServerFailedError(f"processes {left} could not be ended")
    finally:
        signal.signal(signal.SIGINT, before)
