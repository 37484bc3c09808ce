"""Runs a benchmark: reference answers, one load or a sweep of them, the limits, the report."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import resource
import time
from collections.abc import Sequence
from typing import Any

import uvloop

from service.bench.arrivals import Arrivals, burst, poisson, read_trace
from service.bench.errors import OptionError
from service.bench.load import Load, run_closed, run_open
from service.bench.machine import describe_machine
from service.bench.monitor import Monitor
from service.bench.options import BenchOptions
from service.bench.prepare import Prepared, model_file_of, prepare
from service.bench.progress import Progress
from service.bench.reference import (
    CONTENT_TYPE,
    Checker,
    Expected,
    from_server,
)
from service.bench.summary import Window, spread, summarise
from service.bench.target import Target, classify_path, parse_target
from service.bench.wire import SerialClient

_OTHER_FILES = 64  # beside the connections
_LEAST_S = 0.5  # a run that is cut shorter says nothing
_LEAD_S = 0.1  # so that the first arrivals are not late already


def measure(
    options: BenchOptions, progress: Progress, prepared: Prepared | None = None
) -> dict[str, Any]:
    """Do all that the options ask for, and give the report; raises a `StartupError`.

    `prepared` saves preparing the same again for another report. A KeyboardInterrupt ends it; where
    a load was measured already, the report has what there is, and its `interrupted` is true.
    """
    target = parse_target(options.target_url) if options.target_url else None
    images, expected = prepared or prepare(options, progress)
    report: dict[str, Any] = {
        "machine": describe_machine(),
        "options": options.model_dump(mode="json"),
        "images": {"count": len(images), "bytes": spread([len(image) for image in images])},
        "interrupted": False,
    }
    try:
        if target is not None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_against_server(options, target, images, expected, report, progress))
        if options.limits:
            from service.bench.limits import measure_limits  # noqa: PLC0415 - imports ONNX Runtime

            report["limits"] = measure_limits(
                model_file_of(options), images, options.repeats, progress.show
            )
    except KeyboardInterrupt:
        if not report.get("runs"):
            raise
        report["interrupted"] = True
    return report


async def _against_server(
    options: BenchOptions,
    target: Target,
    images: Sequence[bytes],
    expected: Sequence[Expected] | None,
    report: dict[str, Any],
    progress: Progress,
) -> None:
    """Add `server` and `runs` to the report, each run as soon as it is over."""
    if expected is None:
        path = options.path or classify_path(options.model, 2)
        expected = await from_server(target, images, path, options.timeout_s, progress.show)
    _allow_connections(max(options.clients, options.connections))
    path = options.path or classify_path(options.model, options.top_k)
    headers: dict[str, object] = {"Content_Type": CONTENT_TYPE}
    if options.deadline_ms is not None and not options.no_deadline_header:
        headers["X_Request_Timeout_Ms"] = math.ceil(options.deadline_ms)
    requests = [target.post(path, image, **headers) for image in images]
    report["server"] = await _describe_server(target)
    report["runs"] = []
    for rate in options.sweep or (options.rate,):
        run = await _one_run(options, target, requests, Checker(expected), rate, progress)
        report["runs"].append(run)
        if run["interrupted"]:
            raise asyncio.CancelledError


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
    # Both take their time, so before the clock is set. Later, collecting would stop the generator
    # for as long as it takes to look through all samples.
    gc.collect()
    if arrivals is None:
        await load.open(options.clients)
    start = time.perf_counter() + _LEAD_S
    window = Window(start + options.warm_up, start + max(seconds, options.warm_up + 1e-3))
    title = options.mode if rate is None else f"{options.mode} at {rate:g}/s"
    follow = asyncio.create_task(progress.follow(load, title, *window))
    watch = asyncio.create_task(monitor.watch(*window))
    cpu_s: list[float] = []
    cpu = asyncio.create_task(_own_cpu(window, cpu_s))
    interrupted = False
    gc.disable()
    try:
        if arrivals is None:
            await run_closed(load, options.clients, start, window.end)
        else:
            await run_open(load, arrivals, start)
        await asyncio.gather(watch, cpu)
    except asyncio.CancelledError:
        # Ctrl-C. What is under way then is not counted: it was neither answered nor lost.
        window = window._replace(end=min(time.perf_counter(), window.end))
        if window.seconds < _LEAST_S or not cpu_s:
            raise
        cpu_s.append(time.process_time())
        interrupted = True
    finally:
        samples = [*load.samples]
        gc.enable()
        for task in (follow, watch, cpu):
            task.cancel()
        await asyncio.gather(load.close(), monitor.close())
    own = cpu_s[1] - cpu_s[0]
    return {
        "mode": options.mode,
        "rate": rate,
        "interrupted": interrupted,
        **summarise(samples, window, options.deadline_ms),
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


async def _own_cpu(window: Window, seconds: list[float]) -> None:
    """Note the CPU seconds that this process has used at the start of the window and at its end."""
    for at in window:
        await asyncio.sleep(max(at - time.perf_counter(), 0))
        seconds.append(time.process_time())


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
