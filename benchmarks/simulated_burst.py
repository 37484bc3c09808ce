"""Bursts against the simulated engine: who is let in must be answered in time.

The load is `resnet-serve bench --mode burst`: the mean is 0.7 of what the service carries, for one
second of every five it is three times that mean (2.1 of what it carries), and half of it between.
Every request has a deadline, `X-Request-Timeout-Ms`: by default four times what the largest batch
takes, since an image may find one running and one before its own.

The engine, and not HTTP, has to be what limits: a request that the event loop has no time to read
can't be refused. So the path is measured first with the fast engine, then the engine is slowed
until it carries `--engine-share` of that, and what that service carries is measured again.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from typing import Any

from local_server import load
from simulated_engine import batch_ms, best_rate
from simulated_processes import serving_simulated

from service.bench.load import WRONG_ANSWER
from service.bench.options import BURST_FACTOR, BURST_PERIOD_S

MEAN = 0.7
"""Mean arrivals a second, by what the service carries."""

_LATE = "deadline_exceeded"  # accepted, and not answered in time
_PERIODS = 2
_BATCHES = 4


def measure_burst(
    arguments: argparse.Namespace, latencies: Mapping[int, float], flags: Sequence[str]
) -> dict[str, Any]:
    """Find what the path and the service carry, then send bursts; return the report."""
    common = {"images": arguments.images, "image_count": arguments.image_count}
    closed = common | {
        "clients": 2 * arguments.max_batch,  # one batch runs while the next one fills up
        "duration": arguments.duration,
        "warm_up": arguments.warm_up,
    }
    with serving_simulated("service", latencies, flags) as server:
        path = load(server, **closed)["throughput_per_s"]
    factor = best_rate(latencies, arguments.max_batch) / (path * arguments.engine_share)
    slowed = {size: ms * factor for size, ms in latencies.items()}
    largest_ms = batch_ms(slowed, arguments.max_batch)
    deadline_ms = arguments.deadline_ms or math.ceil(_BATCHES * largest_ms)
    with serving_simulated("service", slowed, flags) as server:
        carried = load(server, **closed)["throughput_per_s"]
        run = load(
            server, **common, mode="burst", rate=carried * MEAN, deadline_ms=deadline_ms,
            duration=_PERIODS * BURST_PERIOD_S, warm_up=0,
        )  # fmt: skip
    errors: dict[str, int] = run["errors"]
    return {
        "path_per_s": path,
        "slowed_ms": slowed,
        "carried_per_s": carried,
        "deadline_ms": deadline_ms,
        "requests": run["requests"],
        "answered": run["ok"],
        "kinds": errors,
        "accepted_and_late": errors.get(_LATE, 0),
        "late_for_the_client": run["past_deadline"],
        "wrong": errors.get(WRONG_ANSWER, 0),
        "run": run,
    }


def render_burst(report: dict[str, Any]) -> str:
    """Return the report as text."""
    run, carried = report["run"], report["carried_per_s"]
    refused_ms = run["refusals"]["from_sent_ms"]
    latency = run["latency_ms"] or dict.fromkeys(("p50", "p99", "max"), float("nan"))
    lines = [
        f"the path carries {report['path_per_s']:.0f} requests/s, with the slowed engine "
        f"{carried:.0f}/s; bursts: mean {MEAN * carried:.0f}/s, peak "
        f"{MEAN * BURST_FACTOR * carried:.0f}/s, deadline {report['deadline_ms']} ms",
        f"{report['requests']} requests: {report['answered']} answered right"
        + "".join(f", {count} {kind}" for kind, count in report["kinds"].items()),
        f"accepted and late (504): {report['accepted_and_late']}; answered, and past the deadline "
        f"by the client's clock: {report['late_for_the_client']}",
        f"latency of right answers: p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, "
        f"max {latency['max']:.1f} ms",
    ]
    if refused_ms:
        lines.append(
            f"refused after p50 {refused_ms['p50']:.1f} ms, p99 {refused_ms['p99']:.1f} ms"
        )
    lines.append(
        f"batches by size: {run['server']['batch_sizes']}; server {run['server']['cpu_cores']:.2f} "
        f"cores, client {run['generator']['cpu_cores']:.2f}"
    )
    return "\n".join(lines)
