"""Time from the start of `resnet-serve serve` to the first 200 of /readyz.

python benchmarks/startup.py [--runs N] [-- FLAGS of resnet-serve serve]

Starts the installed program repeatedly on a free port and stops each process by its pid. Prints the
median and the slowest time, next to that of a Python that imports nothing, since both vary with the
machine.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from arguments import count

_START_S = 180.0  # a large model on a slow machine


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def gets_ready(process: subprocess.Popen[bytes], url: str, pause_s: float) -> bool:
    """Wait for the first 200 of /readyz; False if the server ends, or takes too long."""
    give_up = time.perf_counter() + _START_S
    while process.poll() is None and time.perf_counter() < give_up:
        try:
            urllib.request.urlopen(f"{url}/readyz", timeout=5).close()  # noqa: S310 - our own server
        except OSError:  # HTTPError and URLError are OSErrors, and so is TimeoutError
            time.sleep(pause_s)
        else:
            return True
    return False


def seconds_to_ready(flags: list[str]) -> float:
    """Start the program, wait for readiness, stop it."""
    port = free_port()
    program = str(Path(sys.executable).with_name("resnet-serve"))
    started = time.perf_counter()
    command = [program, "serve", "--port", str(port), "--log-level", "error", *flags]
    with subprocess.Popen(command) as process:
        try:
            if gets_ready(process, f"http://127.0.0.1:{port}", 0.005):
                return time.perf_counter() - started
            raise SystemExit(f"not ready in {_START_S:.0f} s; status {process.poll()}")
        finally:
            process.terminate()


def seconds_of_bare_python() -> float:
    """Time an interpreter that does nothing."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", ""], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=count, default=7, help="[%(default)s]")
    parser.add_argument("flags", nargs="*", help="flags for resnet-serve serve, after --")
    arguments = parser.parse_args()
    ready = [seconds_to_ready(arguments.flags) for _ in range(arguments.runs)]
    bare = statistics.median(seconds_of_bare_python() for _ in range(arguments.runs))
    print(f"runs {len(ready)}: ready after median {statistics.median(ready):.2f} s, "
          f"slowest {max(ready):.2f} s; bare Python {bare:.3f} s")  # fmt: skip


if __name__ == "__main__":
    main()
