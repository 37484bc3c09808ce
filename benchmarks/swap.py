"""Latency and failures while a model's version is replaced by another, under load.

    python benchmarks/models.py --only light
    python benchmarks/swap.py --model-file benchmarks/models/light.onnx [--requests N] [...]

A closed loop measures the capacity. Then open loops at `--factor` times that alternate: one that
nothing disturbs, and one at whose beginning the next version is loaded and the old one retired
(POST /v1/models/NAME/load). So the p99 of the seconds after the call is compared with that of
seconds beside it, since the machine's speed itself varies. Every version is the same file, so every
answer can be checked. Do not run other programs at the same time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from arguments import count
from local_server import Running, load, serving

from service.bench.machine import describe_machine
from service.bench.options import BenchOptions
from service.bench.prepare import Prepared, prepare
from service.bench.progress import Progress
from service.bench.text_report import number, table
from service.engine.builds import prepare_runtime
from service.errors import StartupError
from service.models.files import builtin_file

_NAME = "swapped"
_WARM_UP_S = 1.0
_CALL_TIMEOUT_S = 120.0
_INTERRUPTED = 130


class Swaps:
    """The versions in a model folder, and the calls that replace each by the next."""

    def __init__(self, folder: Path, model_file: Path) -> None:
        self._folder, self._model_file = folder / _NAME, model_file
        self._folder.mkdir()
        self._version = 1
        shutil.copy(model_file, self._folder / "1.onnx")
        self.seconds: list[float] = []
        """How long each call took, until the old version had been retired."""

    def swap(self, url: str) -> None:
        """Replace the version by the next. Raises `OSError` if that fails."""
        new = self._folder / f"{self._version + 1}.onnx"
        shutil.copy(self._model_file, new.with_suffix(".part"))
        new.with_suffix(".part").rename(new)
        (self._folder / f"{self._version}.onnx").unlink()
        self._version += 1
        started = time.perf_counter()
        request = urllib.request.Request(f"{url}/v1/models/{_NAME}/load", method="POST")  # noqa: S310 - of this machine
        with urllib.request.urlopen(request, timeout=_CALL_TIMEOUT_S) as answer:  # noqa: S310
            answer.read()
        self.seconds.append(time.perf_counter() - started)


def measure_swaps(
    arguments: argparse.Namespace, prepared: Prepared, rows: list[dict[str, Any]]
) -> float:
    """Start the server and add rows for enough requests; return the closed loop's rate."""
    program = str(Path(sys.executable).with_name("resnet-serve"))
    with tempfile.TemporaryDirectory() as folder:
        swaps = Swaps(Path(folder), arguments.model_file)
        command = [program, "serve", "--models", folder, "--admin", *arguments.flags]
        with serving("resnet-serve", command) as server:
            closed = load(server, prepared, clients=arguments.clients, duration=arguments.duration,
                          warm_up=_WARM_UP_S)  # fmt: skip
            rate = float(closed["throughput_per_s"])
            while sum(row["requests"] for row in rows) < arguments.requests:
                quiet = _open_loop(server, prepared, arguments, rate)
                timer = threading.Timer(_WARM_UP_S, swaps.swap, [server.url])
                timer.start()
                swapped = _open_loop(server, prepared, arguments, rate)
                timer.join()
                if len(swaps.seconds) <= len(rows):
                    raise RuntimeError("a version could not be replaced")
                rows.append(_row(quiet, swapped, swaps.seconds[-1]))
    return rate


def _open_loop(
    server: Running, prepared: Prepared, arguments: argparse.Namespace, rate: float
) -> dict[str, Any]:
    return load(
        server, prepared, mode="poisson", rate=rate * arguments.factor,
        duration=arguments.duration, warm_up=_WARM_UP_S,
    )  # fmt: skip


def _row(quiet: dict[str, Any], swapped: dict[str, Any], seconds: float) -> dict[str, Any]:
    runs = (quiet, swapped)
    return {
        "requests": sum(run["requests"] for run in runs),
        "quiet_failed": quiet["requests"] - quiet["ok"],
        "failed": swapped["requests"] - swapped["ok"],
        "errors": swapped["errors"],
        "quiet_p99_ms": quiet["latency_ms"]["p99"],
        "swapped_p99_ms": swapped["latency_ms"]["p99"],
        "quiet_p50_ms": quiet["latency_ms"]["p50"],
        "swapped_p50_ms": swapped["latency_ms"]["p50"],
        "seconds": seconds,
    }


def _failed(rows: list[dict[str, Any]]) -> int:
    return sum(row["quiet_failed"] + row["failed"] for row in rows)


def render(rows: list[dict[str, Any]], rate: float) -> str:
    """Return the rows as text, and under them what they come to."""
    header = [
        "round", "requests", "failed", "failed, swap", "p50 ms", "p50, swap", "p99 ms", "p99, swap",
        "call s",
    ]  # fmt: skip
    counts = ("requests", "quiet_failed", "failed")
    keys = ("quiet_p50_ms", "swapped_p50_ms", "quiet_p99_ms", "swapped_p99_ms", "seconds")
    lines = [
        [str(index), *(str(row[key]) for key in counts), *(number(row[key]) for key in keys)]
        for index, row in enumerate(rows, 1)
    ]
    quiet, swapped = (
        statistics.median(row[key] for row in rows) for key in ("quiet_p99_ms", "swapped_p99_ms")
    )
    return "\n".join(
        [
            table(header, lines),
            f"closed loop {rate:.0f} requests/s; failed: {_failed(rows)} of "
            f"{sum(row['requests'] for row in rows)}",
            f"median p99: {quiet:.1f} ms undisturbed, {swapped:.1f} ms from the call on, "
            f"{swapped / quiet:.2f} times",
        ]
    )


def main() -> int:
    """Measure and print; return 1 if a request failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model-file", type=Path, help="model file [the built-in one]")
    add("--images", default="synthetic:64x64", help="[%(default)s]")
    add("--requests", type=count, default=50_000, help="in all open loops [%(default)s]")
    add("--factor", type=float, default=0.5, help="arrivals, times the closed loop's [%(default)s]")
    add("--clients", type=count, default=32, help="clients in the closed loop [%(default)s]")
    add("--duration", type=float, default=10.0, help="seconds per loop [%(default)s]")
    add("flags", nargs="*", help="flags for resnet-serve serve, after --")
    arguments = parser.parse_args()
    prepare_runtime()
    arguments.model_file = arguments.model_file or builtin_file().path
    machine, rows, rate = describe_machine(), list[dict[str, Any]](), 0.0
    try:
        options = BenchOptions(
            images=arguments.images, reference="local", model_file=arguments.model_file
        )
        rate = measure_swaps(arguments, prepare(options, Progress()), rows)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (StartupError, RuntimeError, OSError) as error:
        print(f"swap: error: {error}", file=sys.stderr)
        return 1
    print(f"{machine['cpu']}, {machine['cores']} cores, load {os.getloadavg()[0]:.1f}; "
          f"{arguments.model_file.name}")  # fmt: skip
    print(render(rows, rate))
    for row in rows:
        if row["errors"]:
            print(f"errors during a swap: {row['errors']}")
    return int(_failed(rows) > 0)


if __name__ == "__main__":
    sys.exit(main())
