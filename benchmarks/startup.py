"""Time from the start of `resnet-serve serve` to the first 200 of /readyz.

python benchmarks/startup.py [--runs N] [-- FLAGS of resnet-serve serve]

Starts the installed program again and again on a free port and stops each by its own pid. Prints
the median and the slowest, beside the time of a Python that imports nothing, since both vary with
the machine.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path


def free_port() -> int:
    """Give a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def seconds_to_ready(flags: list[str]) -> float:
    """Start the program, wait for readiness, stop it."""
    port = free_port()
    program = str(Path(sys.executable).with_name("resnet-serve"))
    started = time.perf_counter()
    command = [program, "serve", "--port", str(port), "--log-level", "error", *flags]
    with subprocess.Popen(command) as process:
        try:
            while process.poll() is None:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5)
                    return time.perf_counter() - started
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.005)
            raise SystemExit(f"the server ended with status {process.returncode}")
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
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("flags", nargs="*", help="flags of resnet-serve serve, after --")
    arguments = parser.parse_args()
    ready = [seconds_to_ready(arguments.flags) for _ in range(arguments.runs)]
    bare = statistics.median(seconds_of_bare_python() for _ in range(arguments.runs))
    print(f"runs {len(ready)}: ready after median {statistics.median(ready):.2f} s, "
          f"slowest {max(ready):.2f} s; bare Python {bare:.3f} s")  # fmt: skip


if __name__ == "__main__":
    main()
