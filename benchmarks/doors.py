"""Requests per second at the doors of other servers' protocols, compared with /v1/classify.

    python benchmarks/doors.py [--rounds N] [--duration S] [--json FILE] [-- FLAGS of serve]

The real service, before a simulated GPU (`simulated_engine.py`), is sent one image of 64 pixels:
as a JPEG to /v1/classify, and as a raw UINT8 tensor to the Open Inference Protocol, over REST
(behind its JSON, and without any) and over gRPC. wrk and h2load, which take little of the machine,
repeat one fixed request in a closed loop. The doors take turns in each of several rounds, forth and
back, and ratios to /v1/classify are of one round, since the machine's speed itself varies.

"CPU ms" is the server's CPU time per request; "others" are the cores that programs used which have
nothing to do with this.

Needs wrk and h2load (Debian's packages wrk and nghttp2-client), and the extra `grpc`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from arguments import count
from doors_load import H2LOAD, WRK, Door, doors, send, succeeded, what_is_missing
from local_server import Running
from simulated_engine import FAST_GPU_MS, parse_table
from simulated_processes import serving_simulated
from startup import free_port

from service.bench.images import synthetic_jpeg
from service.bench.machine import describe_machine
from service.bench.monitor import cpu_seconds
from service.bench.pipeline import load_pipeline
from service.bench.text_report import number, table
from service.engine.builds import prepare_runtime
from service.errors import StartupError
from service.models.files import builtin_file

_SIDE = 64
_WARM_UP_S = 1.0
_INTERRUPTED = 130


def measure_doors(
    arguments: argparse.Namespace, latencies: Mapping[int, float], flags: Sequence[str]
) -> list[dict[str, Any]]:
    """Start the service and load its doors by turns; return a row for each load."""
    pipeline = load_pipeline(builtin_file().path, threads=1)
    model, jpeg = pipeline.contract.name, synthetic_jpeg(_SIDE, _SIDE, seed=0)
    compared = doors(model, jpeg, pipeline.decode(jpeg))
    pipeline.engine.close()
    grpc_port = str(free_port())
    with (
        tempfile.TemporaryDirectory() as folder,
        serving_simulated("service", latencies, ["--grpc-port", grpc_port, *flags]) as server,
    ):
        addresses = {WRK: server.url.removeprefix("http://"), H2LOAD: f"127.0.0.1:{grpc_port}"}
        sending = Sending(arguments, server, model, addresses, Path(folder))
        for door in compared:
            sending.load(door, _WARM_UP_S)
        return [
            {"round": round_} | sending.load(door, arguments.duration)
            for round_ in range(arguments.rounds)
            for door in (compared if round_ % 2 == 0 else compared[::-1])
        ]


@dataclass(frozen=True, slots=True)
class Sending:
    """What all loads have in common; `addresses` are by program."""

    arguments: argparse.Namespace
    server: Running
    model: str
    addresses: Mapping[str, str]
    folder: Path

    def load(self, door: Door, seconds: float) -> dict[str, Any]:
        """Load a door and return its row. Raises `RuntimeError` if it gave no answer."""
        clients, http = self.arguments.clients, self.addresses[WRK]
        answered, own, all_ = succeeded(http, self.model), self._own_s(), _busy_s()
        server, started = cpu_seconds(self.server.pid), time.perf_counter()
        sent = send(
            door, self.addresses[door.program], self.folder,
            clients=clients, streams=self.arguments.streams, seconds=seconds,
        )  # fmt: skip
        took = time.perf_counter() - started
        server, others = cpu_seconds(self.server.pid) - server, _busy_s() - all_
        others -= self._own_s() - own
        answered = succeeded(http, self.model) - answered
        if not answered or not sent["answers"]:
            raise RuntimeError(f"{door.name} gave no answer: {sent}")
        # The last answers may not have been counted yet; there is one a client at most.
        not_answered = max(0, sent["answers"] - answered - clients)
        return {
            "door": door.name,
            "goal": door.goal,
            "per_s": sent["answers"] / sent["seconds"],
            "cpu_ms": server / answered * 1000,
            "server_cores": server / took,
            "others": max(0.0, others / took),
            "errors": sent["errors"] + not_answered,
        }

    def _own_s(self) -> float:
        """Return the CPU seconds of the server, this process, and programs that it has run."""
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return cpu_seconds(self.server.pid) + time.process_time() + ended.ru_utime + ended.ru_stime


def _busy_s() -> float:
    """Return the CPU seconds that the machine has spent on anything."""
    spent = psutil.cpu_times()
    return sum((spent.user, spent.nice, spent.system, spent.irq, spent.softirq, spent.steal))


def summary_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join the rounds: medians of each door, and its ratios to the first door's rate."""
    base = {row["round"]: row["per_s"] for row in rows if row["door"] == rows[0]["door"]}
    joined = []
    for door in dict.fromkeys(row["door"] for row in rows):
        own = [row for row in rows if row["door"] == door]
        ratios = [row["per_s"] / base[row["round"]] for row in own]
        keys = ("per_s", "cpu_ms", "server_cores", "others")
        medians = {key: statistics.median(row[key] for row in own) for key in keys}
        joined.append(
            {"door": door, "goal": own[0]["goal"], "errors": sum(row["errors"] for row in own)}
            | {"ratio": statistics.median(ratios), "least": min(ratios), "most": max(ratios)}
            | medians
        )
    return joined


def _verdict(row: Mapping[str, Any]) -> str:
    if row["goal"] is None:
        return "-"
    return f"{row['goal']} {'reached' if row['ratio'] >= row['goal'] else 'missed'}"


def render(summary: Sequence[dict[str, Any]]) -> str:
    """Return the summary as text."""
    header = ["door", "requests/s", "ratio", "least-most", "goal", "CPU ms", "server cores",
              "others", "errors"]  # fmt: skip
    lines = [
        [
            row["door"],
            number(row["per_s"]),
            f"{row['ratio']:.2f}",
            f"{row['least']:.2f}-{row['most']:.2f}",
            _verdict(row),
            f"{row['cpu_ms']:.3f}",
            *(number(row[key]) for key in ("server_cores", "others")),
            str(row["errors"]),
        ]
        for row in summary
    ]  # fmt: skip
    return table(header, lines)


def main() -> int:
    """Measure and print; return 1 if a request failed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=count, default=5, help="[%(default)s]")
    add("--duration", type=count, default=5, help="whole seconds per load [%(default)s]")
    add("--clients", type=count, default=32, help="[%(default)s]")
    add("--streams", type=count, default=8, help="clients on one gRPC connection [%(default)s]")
    add("--latencies", type=parse_table, default=dict(FAST_GPU_MS),
        help="batch times of the engine: SIZE:MS,... [%(default)s]")  # fmt: skip
    add("--max-batch", type=count, default=32, help="[%(default)s]")
    add("--json", type=Path, help="write the report as JSON")
    add("flags", nargs="*", help="flags for resnet-serve serve, after --")
    arguments = parser.parse_args()
    if arguments.clients % arguments.streams:
        parser.error("--clients must be a multiple of --streams")
    if missing := what_is_missing():
        print(f"doors: error: {missing}", file=sys.stderr)
        return 1
    prepare_runtime()
    machine = describe_machine()
    try:
        flags = ["--max-batch", str(arguments.max_batch), *arguments.flags]
        rows = measure_doors(arguments, arguments.latencies, flags)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (StartupError, RuntimeError, OSError) as error:
        print(f"doors: error: {error}", file=sys.stderr)
        return 1
    summary = summary_of(rows)
    print(f"{machine['cpu']}, {machine['cores']} cores, load {os.getloadavg()[0]:.1f}")
    print(render(summary))
    if arguments.json is not None:
        report = {"machine": machine, "summary": summary, "rows": rows}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    return int(any(row["errors"] for row in summary))


if __name__ == "__main__":
    sys.exit(main())
