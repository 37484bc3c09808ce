"""serve: answers a second over HTTP, beside the same service before a simulated engine."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from local_server import Running, load, serving
from simulated_engine import FAST_GPU_MS
from simulated_processes import serving_simulated

from gpu_check.context import Context, program
from gpu_check.report import Part

_CLIENTS = (1, 8, 64, 256)
_MAX_BATCH = 32
_MOST_START_S, _MOST_P50_MS, _LEAST_SHARE = 10.0, 3.0, 0.9
_EXPLAINED_BELOW = 3000.0
_TOP_FRAMES = 12


def run(context: Context, part: Part) -> None:
    """Load the service with 1 to 256 clients; then the simulated one with the table it measured."""
    with tempfile.TemporaryDirectory() as folder:
        link(context.model("fp16" if context.gpu else "fp32"), Path(folder))
        flags = ["--models", folder, "--max-batch", str(_MAX_BATCH), "--cache-dir", "none",
                 "--log-level", "warning"]  # fmt: skip
        table, rates = dict(FAST_GPU_MS), dict[int, dict[str, Any]]()
        if context.gpu:
            table, rates = _real(context, part, flags)
        else:
            part.skip("service on the GPU")
        clients = _CLIENTS[-1] if context.gpu else 64
        with serving_simulated("service", table, flags) as server:
            simulated = _load(context, server, clients)
    what = f"simulated engine, {clients} clients"
    part.note(what, _told(simulated))
    part.details |= {"table_ms": table, "simulated": simulated}
    _check_errors(part, what, simulated)
    if rates:
        share = rates[clients]["throughput_per_s"] / simulated["throughput_per_s"]
        part.at_least("service / simulated engine", share, _LEAST_SHARE)


def _real(
    context: Context, part: Part, flags: list[str]
) -> tuple[dict[int, float], dict[int, dict[str, Any]]]:
    started = time.perf_counter()
    with serving("service", [*program("resnet-serve"), "serve", *flags]) as server:
        part.at_most(
            "start to ready", time.perf_counter() - started, _MOST_START_S, " s"
        )  # one model, max_batch 32
        rates = {clients: _load(context, server, clients) for clients in _CLIENTS}
        health = read_json(f"{server.url}/health")
        if rates[_CLIENTS[-1]]["throughput_per_s"] < _EXPLAINED_BELOW:
            part.notes.append(_profiled(context, server))
    for clients, found in rates.items():
        part.note(f"fp16, {clients} clients", _told(found))
        _check_errors(part, f"fp16, {clients} clients", found)
    part.at_most("one client, p50", rates[1]["latency_ms"]["p50"], _MOST_P50_MS, " ms")
    (model,) = health["models"]
    table = {int(size): ms for size, ms in model["latency_ms"].items()}
    part.details |= {"rates": rates, "health": health}
    return table, rates


def _load(context: Context, server: Running, clients: int) -> dict[str, Any]:
    side = context.image_side
    run = load(
        server, images=f"synthetic:{side}x{side}", image_count=64, clients=clients,
        duration=context.seconds(3), warm_up=context.seconds(1),
    )  # fmt: skip
    kept = ("throughput_per_s", "latency_ms", "errors", "agreement", "stages_ms", "generator")
    return {key: run[key] for key in kept} | {"batch_sizes": run["server"]["batch_sizes"]}


def _told(run: Mapping[str, Any]) -> str:
    latency, generator = run["latency_ms"] or {}, run["generator"]
    return (
        f"{run['throughput_per_s']:.0f} answers/s, p50 {latency.get('p50', 0):.1f} ms, p99 "
        f"{latency.get('p99', 0):.1f} ms; generator {generator['cpu_cores']:.1f} cores in "
        f"{generator['processes']} processes"
    )


def _check_errors(part: Part, what: str, run: Mapping[str, Any]) -> None:
    if run["errors"]:
        part.check(what, f"errors: {run['errors']}", "none", ok=False)


def _profiled(context: Context, server: Running) -> str:
    """Say where the server's Python is, under the largest load; for that py-spy is needed."""
    spy = shutil.which("py-spy")
    if spy is None:
        return f"Below {_EXPLAINED_BELOW:.0f}/s; py-spy, which would say why, is not installed."
    with tempfile.NamedTemporaryFile(suffix=".txt") as file, ThreadPoolExecutor(1) as threads:
        loading = threads.submit(_load, context, server, _CLIENTS[-1])
        subprocess.run(
            [spy, "record", "--pid", str(server.pid), "--duration", "3", "--format", "raw",
             "--gil", "--output", file.name],
            check=False, capture_output=True, timeout=30,
        )  # fmt: skip
        loading.result()
        samples = Path(file.name).read_text("utf-8", "replace").splitlines()
    return "\n".join(
        [f"Below {_EXPLAINED_BELOW:.0f}/s. Who holds Python's lock (py-spy, own time):", "",
         *top_frames(samples)]
    )  # fmt: skip


def top_frames(samples: list[str]) -> list[str]:
    """List the frames on top of most stacks, of py-spy's raw format: `a;b;c COUNT` a line."""
    own: Counter[str] = Counter()
    for sample in samples:
        stack, _, count = sample.rpartition(" ")
        if count.isdigit():
            own[stack.rpartition(";")[2]] += int(count)
    total = sum(own.values()) or 1
    return [f"- {count / total:.0%} {frame}" for frame, count in own.most_common(_TOP_FRAMES)]


def link(model: Path, folder: Path) -> None:
    """Put a model file into a folder of its own, to be served from there."""
    (folder / model.name).symlink_to(model.resolve())


def read_json(url: str) -> dict[str, Any]:
    """Get JSON from a server of ours."""
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - a server of ours
        found: dict[str, Any] = json.load(answer)
    return found
