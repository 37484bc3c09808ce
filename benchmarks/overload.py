"""Goodput of the service when more requests arrive than it can answer.

    python benchmarks/overload.py [--model-file FILE] [--images IMAGES] [--clients N] [...]
    python benchmarks/overload.py --mode burst --factor 0.7 [...]

One server receives alternating loads: a closed loop, which measures its capacity, then an open loop
whose mean rate is `--factor` times that, with a deadline (`X-Request-Timeout-Ms`), and a final
closed loop. Each open loop thus lies between two closed ones, and goodput is reported as a ratio to
their mean, because the machine's speed itself varies. With `--mode burst`, arrivals come in bursts
of three times the mean rate (see `resnet-serve bench`).

Requests that were accepted and then answered 504, or answered past the deadline by the client's
clock, are counted. Every answer is checked against the model file. Do not run other programs at the
same time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from arguments import count, positive
from local_server import Running, load, serving

from service.bench.checks import check
from service.bench.load import WRONG_ANSWER
from service.bench.machine import describe_machine
from service.bench.options import read_options
from service.bench.prepare import Prepared, prepare
from service.bench.progress import Progress
from service.bench.text_report import number, table
from service.engine.builds import prepare_runtime
from service.errors import StartupError
from service.models.files import builtin_file

_LATE = "deadline_exceeded"  # accepted, and not answered in time
_MIB = 2**20
_INTERRUPTED = 130


def measure_overload(
    arguments: argparse.Namespace, prepared: Prepared, rows: list[dict[str, Any]]
) -> None:
    """Start the server, load it by turns, and add a row for each open loop."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.onnx").symlink_to(arguments.model_file.resolve())
        program = str(Path(sys.executable).with_name("resnet-serve"))
        command = [program, "serve", "--models", folder, *arguments.flags]
        with serving("resnet-serve", command) as server:
            before = _closed_loop(server, arguments, prepared)
            for _ in range(arguments.rounds):
                run = load(
                    server, prepared, mode=arguments.mode, rate=before * arguments.factor,
                    deadline_ms=arguments.deadline_ms, duration=arguments.duration,
                    warm_up=arguments.warm_up,
                )  # fmt: skip
                after = _closed_loop(server, arguments, prepared)
                rows.append(row_of(run, (before + after) / 2))
                before = after


def _closed_loop(server: Running, arguments: argparse.Namespace, prepared: Prepared) -> float:
    """Return the right answers a second of a closed loop."""
    run = load(
        server, prepared, clients=arguments.clients, duration=arguments.closed_duration,
        warm_up=arguments.warm_up,
    )  # fmt: skip
    if run["errors"]:
        raise RuntimeError(f"the closed loop had errors: {run['errors']}")
    return float(run["throughput_per_s"])


def row_of(run: dict[str, Any], carried: float) -> dict[str, Any]:
    """Return what counts of an open loop, beside the closed loops' answers a second."""
    errors: dict[str, int] = run["errors"]
    latency, refused = run["latency_ms"], run["refusals"]["from_sent_ms"]
    resident = [usage["rss_bytes"] for usage in run["server"]["usage"]]
    return {
        "carried_per_s": carried,
        "offered_per_s": run["offered_per_s"],
        "goodput_per_s": run["goodput_per_s"],
        "ratio": run["goodput_per_s"] / carried,
        "p99_ms": latency and latency["p99"],
        "refused": run["refusals"]["count"],
        "refused_p99_ms": refused and refused["p99"],
        "requests": run["requests"],
        "answered": run["ok"],
        "accepted_and_late": errors.get(_LATE, 0),
        "past_deadline": run["past_deadline"],
        "wrong": errors.get(WRONG_ANSWER, 0),
        "errors": errors,
        "resident_first_mib": resident[0] / _MIB,
        "resident_last_mib": resident[-1] / _MIB,
        "server_cores": run["server"]["cpu_cores"],
        "client_cores": run["generator"]["cpu_cores"],
    }


def render(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text, and under them what they come to."""
    header = [
        "round", "closed /s", "offered /s", "goodput /s", "goodput / closed", "p99 ms", "refused",
        "refused p99 ms", "accepted, 504", "answered late", "MiB resident",
    ]  # fmt: skip
    lines = [
        [
            str(index),
            *(number(row[key]) for key in ("carried_per_s", "offered_per_s", "goodput_per_s")),
            f"{row['ratio']:.2f}",
            number(row["p99_ms"]),
            str(row["refused"]),
            number(row["refused_p99_ms"]),
            str(row["accepted_and_late"]),
            str(row["past_deadline"]),
            f"{row['resident_first_mib']:.0f} to {row['resident_last_mib']:.0f}",
        ]
        for index, row in enumerate(rows, 1)
    ]
    accepted = sum(row["answered"] + row["accepted_and_late"] for row in rows)
    late = sum(row["accepted_and_late"] + row["past_deadline"] for row in rows)
    return "\n".join(
        [
            table(header, lines),
            f"goodput by the closed loops: median "
            f"{statistics.median(row['ratio'] for row in rows):.2f}",
            f"accepted and late: {late} of {accepted} ({late / max(accepted, 1):.3%}); "
            f"wrong answers: {sum(row['wrong'] for row in rows)}",
        ]
    )


def main() -> int:
    """Measure and print; return 1 when an answer was wrong, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model-file", type=Path, help="model file [the built-in one]")
    add("--images", default="synthetic:64x64", help="[%(default)s]")
    add("--image-count", type=count, default=1000, help="[%(default)s]")
    add("--mode", choices=("poisson", "burst"), default="poisson", help="[%(default)s]")
    add(
        "--factor",
        type=positive,
        default=2.0,
        help="mean arrivals, times the closed loop's [%(default)s]",
    )
    add("--deadline-ms", type=positive, default=1000.0, help="[%(default)s]")
    add("--clients", type=count, default=32, help="clients in the closed loop [%(default)s]")
    add("--rounds", type=count, default=5, help="[%(default)s]")
    add("--duration", type=positive, default=60.0, help="seconds per open loop [%(default)s]")
    add(
        "--closed-duration",
        type=positive,
        default=20.0,
        help="seconds per closed loop [%(default)s]",
    )
    add(
        "--warm-up",
        type=float,
        default=3.0,
        help="warm-up seconds before each load [%(default)s]",
    )
    add("--json", type=Path, help="write the report as JSON")
    add("flags", nargs="*", help="flags for resnet-serve serve, after --")
    arguments = parser.parse_args()
    prepare_runtime()
    arguments.model_file = arguments.model_file or builtin_file().path
    machine = describe_machine()
    rows: list[dict[str, Any]] = []
    status = 0
    try:
        options = read_options({
            "images": arguments.images, "image_count": arguments.image_count,
            "reference": "local", "model_file": arguments.model_file, "json_file": arguments.json,
        })  # fmt: skip
        check(options)  # not only after minutes of load
        prepared = prepare(options, Progress())
        measure_overload(arguments, prepared, rows)
    except KeyboardInterrupt:
        if not rows:
            return _INTERRUPTED
        status = _INTERRUPTED
    except (StartupError, RuntimeError) as error:
        print(f"overload: error: {error}", file=sys.stderr)
        return 1
    print(f"{machine['cpu']}, {machine['cores']} cores; {arguments.model_file.name}; "
          f"{len(prepared.images)} images")  # fmt: skip
    print(render(rows))
    if arguments.json is not None:
        whole = {"machine": machine, "model_file": arguments.model_file.name, "rounds": rows}
        arguments.json.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    return status or int(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
