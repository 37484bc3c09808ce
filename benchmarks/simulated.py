"""Requests per second that the serving path itself sustains: the real service, a simulated GPU.

    python benchmarks/simulated.py [--rounds N] [--duration S] [--json FILE] [-- FLAGS of serve]
    python benchmarks/simulated.py --burst

Three servers, each in its own process under uvicorn (uvloop, httptools), receive the same load
(the closed loop of `resnet-serve bench`, small JPEGs), one after another in each of several rounds:

- `service`: the complete service, with an engine (`simulated_engine.py`) that sleeps where a GPU
  would compute. Every answer is checked.
- `empty`: a FastAPI handler that reads the body and returns fixed bytes, without decoding.
- `decode`: the same, but it first decodes the image on a thread, as any image service must.

The goal is for `service` to reach 0.75 of `empty` where throughput matters, with 32 and 64 clients;
with a single client, the simulated GPU's time dominates. Ratios are computed per round and reported
as medians. To show the bottleneck, the report has the CPU usage of the server and client processes,
which share the machine, CPU time per request, and the service's own stage timings. To dig deeper,
run `py-spy record --threads --pid PID` with the printed pid.

`--burst` sends bursts to the service instead; see `simulated_burst.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from arguments import count, counts, positive
from local_server import Running, load
from simulated_burst import measure_burst, render_burst
from simulated_engine import FAST_GPU_MS, parse_table
from simulated_processes import serving_simulated

from service.bench.images import read_images
from service.bench.machine import describe_machine
from service.bench.summary import spread
from service.bench.text_report import number, table
from service.engine.builds import prepare_runtime
from service.errors import StartupError
from service.models.files import builtin_file

GOAL = 0.75

_KINDS = ("empty", "decode", "service")
_THROUGHPUT_CLIENTS = 32  # from so many on it is throughput that is measured
_DECODES = 200
_FULL = 0.9  # of a core: the rest is what waking up and measuring lose


def measure_path(
    arguments: argparse.Namespace, latencies: Mapping[int, float], flags: Sequence[str]
) -> dict[str, Any]:
    """Load all three servers in turn, in rounds; return the report."""
    with ExitStack() as stack:
        servers = {
            kind: stack.enter_context(serving_simulated(kind, latencies, flags)) for kind in _KINDS
        }
        for server in servers.values():
            print(f"{server.name}: pid {server.pid}", file=sys.stderr)
        runs: list[dict[str, Any]] = []
        decode_ms = []
        for number_, clients in itertools.product(range(arguments.rounds), arguments.clients):
            # Forth and back, so that a machine that gets slower does so for none in particular.
            order = _KINDS if number_ % 2 == 0 else _KINDS[::-1]
            runs += [_one(arguments, servers[kind], clients, number_) for kind in order]
            if clients == arguments.clients[-1]:
                decode_ms.append(decode_alone_ms(arguments.images))
    rows = [_row(clients, runs) for clients in arguments.clients]
    counted = [row for row in rows if row["clients"] >= _THROUGHPUT_CLIENTS]
    return {
        "rows": rows,
        "ratio": min((row["ratio"] for row in counted), default=None),
        "goal": GOAL,
        "decode_alone_ms": statistics.median(decode_ms),
        "errors": sum(sum(run["errors"].values()) for run in runs),
        "runs": runs,
    }


def _one(
    arguments: argparse.Namespace, server: Running, clients: int, round_: int
) -> dict[str, Any]:
    run = load(
        server, images=arguments.images, image_count=arguments.image_count, clients=clients,
        duration=arguments.duration, warm_up=arguments.warm_up,
    )  # fmt: skip
    if not run["ok"]:
        raise RuntimeError(f"the {server.name} server answered nothing right: {run['errors']}")
    kept = ("throughput_per_s", "latency_ms", "errors", "stages_ms", "server", "generator")
    return {"kind": server.name, "clients": clients, "round": round_} | {
        key: run[key] for key in kept
    }


def decode_alone_ms(source: str) -> float:
    """Return the CPU milliseconds that the service's decoding of one image takes, on one thread."""
    from service.bench.pipeline import load_pipeline  # noqa: PLC0415 - imports ONNX Runtime

    pipeline, images = load_pipeline(builtin_file().path, threads=1), read_images(source, 20, 0)
    started = time.thread_time()
    for image in itertools.islice(itertools.cycle(images), _DECODES):
        pipeline.decode(image)
    return (time.thread_time() - started) / _DECODES * 1000


def _row(clients: int, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the rounds of one number of clients: medians, and ratios within a round."""
    by_kind = {
        kind: [run for run in runs if run["kind"] == kind and run["clients"] == clients]
        for kind in _KINDS
    }

    def ratio_to(other: str) -> dict[str, float] | None:
        pairs = zip(by_kind["service"], by_kind[other], strict=True)
        return spread([ours["throughput_per_s"] / its["throughput_per_s"] for ours, its in pairs])

    to_empty, to_decode = ratio_to("empty"), ratio_to("decode")
    assert to_empty is not None  # noqa: S101 - there is a round at least
    assert to_decode is not None  # noqa: S101
    return {
        "clients": clients,
        "ratio": to_empty["p50"],
        "ratio_to_decode": to_decode["p50"],
        **{kind: _medians(of_kind) for kind, of_kind in by_kind.items()},
    }


def _medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    rates = [run["throughput_per_s"] for run in runs]
    return {
        "requests_per_s": median(rates),
        "p99_ms": median([run["latency_ms"]["p99"] for run in runs]),
        "server_cores": median([run["server"]["cpu_cores"] for run in runs]),
        "client_cores": median([run["generator"]["cpu_cores"] for run in runs]),
        "server_cpu_ms": median(
            [
                run["server"]["cpu_cores"] / rate * 1000
                for run, rate in zip(runs, rates, strict=True)
            ]
        ),
        "stages_p50_ms": {
            stage: median([run["stages_ms"][stage]["p50"] for run in runs])
            for stage in runs[0]["stages_ms"]
        },
    }


def bound_by(server_cores: float, client_cores: float, cores: int) -> str:
    """Say what limits a closed loop, by the CPU that its two processes use."""
    if server_cores + client_cores >= _FULL * cores:
        return "all of the machine's cores"
    if client_cores >= _FULL:
        return "the client: take the figures for a lower bound"
    if server_cores >= _FULL:
        return "the server's Python, which runs on one core at a time"
    return "waiting: for the simulated device, or for threads to hand over"


def render_path(report: dict[str, Any], cores: int) -> str:
    """Return the report as text; `cores` are the machine's."""
    header = ["clients", *_KINDS, "service/empty", "service/decode", "server cores", "client cores"]
    lines = [
        [
            str(row["clients"]),
            *(number(row[kind]["requests_per_s"]) for kind in _KINDS),
            number(row["ratio"]),
            number(row["ratio_to_decode"]),
            number(row["service"]["server_cores"]),
            number(row["service"]["client_cores"]),
        ]
        for row in report["rows"]
    ]
    last = report["rows"][-1]
    cpu = ", ".join(f"{kind} {number(last[kind]['server_cpu_ms'])}" for kind in _KINDS)
    stages = ", ".join(
        f"{stage} {number(ms)}" for stage, ms in last["service"]["stages_p50_ms"].items()
    )
    ours, ratio = last["service"], report["ratio"]
    bound = bound_by(ours["server_cores"], ours["client_cores"], cores)
    verdict = "-" if ratio is None else "reached" if ratio >= report["goal"] else "missed"
    return "\n".join(
        [
            "Requests/s, medians of the rounds:",
            table(header, lines),
            f"with {last['clients']} clients, CPU ms of the server a request: {cpu}; "
            f"decoding alone {number(report['decode_alone_ms'])}",
            f"with {last['clients']} clients, the service's stages, p50 ms: {stages}",
            f"with {last['clients']} clients, the service is bound by {bound}",
            f"service/empty with {_THROUGHPUT_CLIENTS} clients and more: {number(ratio)} "
            f"(goal {report['goal']}: {verdict}); errors: {report['errors']}",
        ]
    )


def main() -> int:
    """Measure and print; return 1 when an answer was wrong, or late though accepted."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=count, default=3, help="[%(default)s]")
    add("--duration", type=positive, default=3.0, help="seconds per run [%(default)s]")
    add("--warm-up", type=float, default=1.0, help="[%(default)s]")
    add("--clients", type=counts, default=[1, 8, 32, 64], help="[1,8,32,64]")
    add("--images", default="synthetic:64x64", help="[%(default)s]")
    add("--image-count", type=count, default=50, help="[%(default)s]")
    add("--latencies", type=parse_table, default=dict(FAST_GPU_MS),
        help="batch times of the engine: SIZE:MS,... [%(default)s]")  # fmt: skip
    add("--max-batch", type=count, default=32, help="[%(default)s]")
    add("--burst", action="store_true", help="send bursts of 3 times the mean rate instead")
    add(
        "--deadline-ms",
        type=count,
        help="deadline for --burst [four times the largest batch's time]",
    )
    add("--engine-share", type=positive, default=0.3,
        help="for --burst: engine rate, as a share of the path's [%(default)s]")  # fmt: skip
    add("--json", type=Path, help="write the report as JSON")
    add("flags", nargs="*", help="flags for resnet-serve serve, after --")
    arguments = parser.parse_args()
    prepare_runtime()
    flags = ["--max-batch", str(arguments.max_batch), *arguments.flags]
    machine = describe_machine()
    print(f"{machine['cpu']}, {machine['cores']} cores")
    try:
        if arguments.burst:
            report = measure_burst(arguments, arguments.latencies, flags)
            text, bad = render_burst(report), report["accepted_and_late"] or report["wrong"]
        else:
            report = measure_path(arguments, arguments.latencies, flags)
            text, bad = render_path(report, machine["cores"]), report["errors"]
    except KeyboardInterrupt:
        return 130
    except (StartupError, RuntimeError) as error:
        print(f"simulated: error: {error}", file=sys.stderr)
        return 1
    print(text)
    if arguments.json is not None:
        whole = {"machine": machine, "latencies_ms": arguments.latencies, **report}
        arguments.json.write_text(json.dumps(whole, indent=1) + "\n", "utf-8")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
