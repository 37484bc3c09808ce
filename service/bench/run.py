"""Runs a benchmark: reference answers, one or more loads, the limits, the report."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Any, TypeVar

import uvloop

from service.bench.crew import Crew
from service.bench.described import describe_server
from service.bench.generator import Generator, OneProcess, Work
from service.bench.machine import command_of, describe_machine
from service.bench.monitor import Monitor
from service.bench.open_files import allow_open_files
from service.bench.options import BenchOptions
from service.bench.prepare import Prepared, model_file_of, prepare
from service.bench.progress import Progress
from service.bench.reference import CONTENT_TYPE, TOLERANCE, Expected, from_server
from service.bench.shares import deal, process_count, schedule
from service.bench.summary import Window, spread, summarise
from service.bench.target import Target, classify_path, target_of
from service.cpus import cpu_count

T = TypeVar("T")

_LEAST_S = 0.5  # an interrupted run that is shorter than this says nothing
_SOME_LABELS = 2  # to request for a reference answer if the number of classes is unknown
_LEAD_S = 0.1  # so that the first arrivals are not already late


def measure(
    options: BenchOptions, progress: Progress, prepared: Prepared | None = None
) -> dict[str, Any]:
    """Run what the options ask for and return the report; raises a `StartupError`.

    `prepared` avoids preparing the same images again for another report. After a KeyboardInterrupt,
    the report has what was measured so far, with `interrupted` true; if that is no load, the
    exception is raised.
    """
    url = options.target_url
    target = target_of(url, options.api_key_file) if url else None
    images, expected = prepared or prepare(options, progress)
    report: dict[str, Any] = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
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
    """Add `server`, `tolerance` and `runs` to the report, each run as soon as it ends."""
    report["server"], model = await describe_server(target, options)
    if options.server_pid is not None:
        report["server"]["command"] = command_of(options.server_pid)
    report["tolerance"] = TOLERANCE if model.tolerance is None else model.tolerance
    if expected is None:
        path = options.path or classify_path(
            options.model, model.classes or _SOME_LABELS, independent=model.independent
        )
        expected = await from_server(
            target, images, path, options.timeout_s, progress.show, report["tolerance"],
            independent=model.independent,
        )  # fmt: skip
    processes = process_count(options, cpu_count())
    allow_open_files(options, processes)
    work = Work(
        target,
        requests_of(options, target, images, independent=model.independent),
        expected,
        report["tolerance"],
        options.timeout_s,
    )
    report["runs"] = []
    async with AsyncExitStack() as stack:
        generator: Generator = OneProcess(work)
        if processes > 1:
            crew = Crew(work, processes, tell=progress.on_terminal)
            generator = await stack.enter_async_context(crew)
        for rate in options.sweep or (options.rate,):
            run = await _one_run(options, target, generator, rate, progress)
            report["runs"].append(run)
            if run["interrupted"]:
                raise asyncio.CancelledError


def requests_of(
    options: BenchOptions, target: Target, images: Sequence[bytes], *, independent: bool = False
) -> list[bytes]:
    """Return the bytes of each image's request, to a model whose labels may be independent."""
    path = options.path or classify_path(options.model, options.top_k, independent=independent)
    headers: dict[str, object] = {"Content_Type": CONTENT_TYPE}
    if options.deadline_ms is not None and not options.no_deadline_header:
        headers["X_Request_Timeout_Ms"] = math.ceil(options.deadline_ms)
    return [target.post(path, image, **headers) for image in images]


async def _one_run(
    options: BenchOptions,
    target: Target,
    generator: Generator,
    rate: float | None,
    progress: Progress,
) -> dict[str, Any]:
    arrivals, seconds = schedule(options, rate)
    monitor = Monitor(target, options.server_pid, options.model)
    await generator.open(deal(options, arrivals, generator.processes))
    start = time.perf_counter() + _LEAD_S
    window = Window(start + options.warm_up, start + max(seconds, options.warm_up + 1e-3))
    title = options.mode if rate is None else f"{options.mode} at {rate:g}/s"
    follow = asyncio.create_task(progress.follow(generator.tally, title, window))
    watch = asyncio.create_task(monitor.watch(*window))
    interrupted = False
    try:
        await generator.run(start, window)
        await watch
    except asyncio.CancelledError:
        # Ctrl-C. Requests in progress are not counted: they are neither answered nor lost.
        window = window._replace(end=min(time.perf_counter(), window.end))
        if window.seconds < _LEAST_S:
            raise
        interrupted = True
    finally:
        for task in (follow, watch):
            task.cancel()
        (outcomes, _), late = await _in_any_case(
            asyncio.gather(generator.finish(), monitor.close())
        )
    samples = [sample for outcome in outcomes for sample in outcome.samples]
    return {
        "mode": options.mode,
        "rate": rate,
        "interrupted": interrupted or late,
        **summarise(samples, window, options.deadline_ms),
        "server": monitor.report(),
        "generator": _usage([outcome.cpu_s for outcome in outcomes], window)
        | {"silent_processes": generator.processes - len(outcomes)},
    }


async def _in_any_case(work: asyncio.Future[T]) -> tuple[T, bool]:
    """Wait for `work` even after a Ctrl-C; return its result and whether one came."""
    try:
        return await asyncio.shield(work), False
    except asyncio.CancelledError:
        return await work, True


def _usage(cpu_s: Sequence[float], window: Window) -> dict[str, Any]:
    """Return the generator's CPU usage, in total and of the busiest process."""
    return {
        "processes": len(cpu_s),
        "cpu_s": sum(cpu_s),
        "cpu_cores": sum(cpu_s) / window.seconds,
        "busiest_cores": max(cpu_s) / window.seconds,
    }


def render_json(report: dict[str, Any]) -> str:
    """Return the report as JSON."""
    return json.dumps(report, indent=1, allow_nan=False) + "\n"
