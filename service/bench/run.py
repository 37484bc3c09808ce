"""Runs a benchmark: reference answers, one load or a sweep of them, the limits, the report."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from service.bench.arrivals import Arrivals, burst, poisson, read_trace
from service.bench.errors import OptionError
from service.bench.images import read_images
from service.bench.load import Load, run_closed, run_open
from service.bench.machine import describe_machine
from service.bench.monitor import Monitor
from service.bench.options import BenchOptions
from service.bench.progress import Progress
from service.bench.reference import (
    CONTENT_TYPE,
    Checker,
    Expected,
    from_model_file,
    from_server,
)
from service.bench.summary import Window, spread, summarise
from service.bench.target import Target, classify_path, parse_target
from service.bench.wire import SerialClient
from service.model_files import builtin_file

_OTHER_FILES = 64  # beside the connections
_LEAD_S = 0.1  # so that the first arrivals are not late already


def measure(options: BenchOptions, progress: Progress) -> dict[str, Any]:
    """Do all that the options ask for, and give the report; raises a `StartupError`."""
    target = parse_target(options.target_url) if options.target_url else None
    progress.show("reading images")
    images = read_images(options.images, options.image_count, options.seed)
    model_file = options.model_file or builtin_file().path
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "options": options.model_dump(mode="json"),
        "images": {"count": len(images), "bytes": spread([len(image) for image in images])},
    }
    if target is not None:
        local = None
        if options.reference == "local":
            local = from_model_file(model_file, images, progress.show)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            report |= runner.run(_against_server(options, target, images, local, progress))
    if options.limits:
        from service.bench.limits import measure_limits  # noqa: PLC0415 - imports ONNX Runtime

        report["limits"] = measure_limits(model_file, images, options.repeats, progress.show)
    return report


async def _against_server(
    options: BenchOptions,
    target: Target,
    images: Sequence[bytes],
    expected: Sequence[Expected] | None,
    progress: Progress,
) -> dict[str, Any]:
    if expected is None:
        expected = await from_server(
            target, images, options.model, options.timeout_s, progress.show
        )
    _allow_connections(max(options.clients, options.connections))
    path = classify_path(options.model, options.top_k)
    headers: dict[str, object] = {"Content_Type": CONTENT_TYPE}
    if options.deadline_ms is not None:
        headers["X_Request_Timeout_Ms"] = f"{options.deadline_ms:g}"
    requests = [target.post(path, image, **headers) for image in images]
    runs = [
        await _one_run(options, target, requests, Checker(expected), rate, progress)
        for rate in options.sweep or (options.rate,)
    ]
    return {"server": await _describe_server(target), "runs": runs}


async def _one_run(
    options: BenchOptions,
    target: Target,
    requests: Sequence[bytes],
    check: Checker,
    rate: float | None,
    progress: Progress,
) -> dict[str, Any]:
    arrivals, seconds = _schedule(options, rate)
    load = Load(
        target,
        requests,
        check,
        connections=options.clients if arrivals is None else options.connections,
        timeout_s=options.timeout_s,
        seed=options.seed,
    )
    monitor = Monitor(target, options.server_pid, options.model)
    start = time.perf_counter() + _LEAD_S
    window = Window(start + options.warm_up, start + max(seconds, options.warm_up + 1e-3))
    title = options.mode if rate is None else f"{options.mode} at {rate:g}/s"
    follow = asyncio.create_task(progress.follow(load, title, *window))
    watch = asyncio.create_task(monitor.watch(*window))
    cpu = asyncio.create_task(_own_cpu(window))
    # Collecting would stop the generator for as long as it takes to look through all samples.
    gc.collect()
    gc.disable()
    try:
        if arrivals is None:
            await run_closed(load, options.clients, start, window.end)
        else:
            await run_open(load, arrivals, start)
        await watch
    finally:
        gc.enable()
        follow.cancel()
        await asyncio.gather(load.close(), monitor.close())
    figures = summarise(load.samples, window, options.deadline_ms)
    own = await cpu
    return {
        "mode": options.mode,
        "rate": rate,
        **figures,
        "server": monitor.report(),
        "generator": {"cpu_s": own, "cpu_cores": own / window.seconds},
    }


def _schedule(options: BenchOptions, rate: float | None) -> tuple[Arrivals | None, float]:
    """Give the arrivals of an open loop, and the length of the run with its warm-up."""
    seconds = options.warm_up + options.duration
    if options.trace is not None:
        arrivals = read_trace(options.trace)
        seconds = min(seconds, float(arrivals[-1]) + 1e-3)
        return arrivals[arrivals < seconds], seconds
    if rate is None:
        return None, seconds
    make = burst if options.mode == "burst" else poisson
    return make(rate, seconds, options.seed), seconds


def _allow_connections(count: int) -> None:
    """Raise this process's limit of open files, mostly 1024, as far as that many need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _OTHER_FILES
    if soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise OptionError(
                f"--connections: {count} need {needed} open files, and {hard} are allowed (ulimit)"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


async def _own_cpu(window: Window) -> float:
    """Give the CPU seconds that this process uses in the window."""
    await asyncio.sleep(max(window.start - time.perf_counter(), 0))
    before = time.process_time()
    await asyncio.sleep(max(window.end - time.perf_counter(), 0))
    return time.process_time() - before


async def _describe_server(target: Target) -> dict[str, Any]:
    """Give what the server says of itself; a server of another kind says nothing."""
    client = SerialClient(target, 10.0)
    try:
        answer = await client.exchange(target.get("/v1/models"))
        return {"url": f"http://{target.authority}", **json.loads(answer.body)}
    except (ValueError, TypeError):
        return {"url": f"http://{target.authority}"}
    finally:
        await client.close()


def render_json(report: dict[str, Any]) -> str:
    """Give the report as JSON."""
    return json.dumps(report, indent=1, allow_nan=False) + "\n"
