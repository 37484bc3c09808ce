"""One test of LoadGen: its settings, its thread, and the report."""

from __future__ import annotations

import argparse
import asyncio
import gc
import threading
import time
from array import array
from collections.abc import Callable
from typing import Any

import uvloop
from loadgen_client import QueryClient
from loadgen_results import metric_of, read_accuracy, read_detail

from service.bench.described import describe_server
from service.bench.machine import describe_machine
from service.bench.options import DEFAULT_URL, BenchOptions
from service.bench.prepare import Prepared, prepare
from service.bench.progress import Progress
from service.bench.reference import TOLERANCE, Checker, from_server
from service.bench.run import requests_of
from service.bench.summary import spread
from service.bench.target import Target, classify_path, parse_target
from service.engine.builds import prepare_runtime

CONNECTIONS = {"SingleStream": 1, "Server": 512, "Offline": 128}
"""How many queries are in flight at most, by scenario, unless it is said."""

_LEAST_LATENCY_NS = 300_000  # of a request over HTTP that decodes an image


def measure(loadgen: Any, options: BenchOptions, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one test with the module `mlperf_loadgen`; return the report.

    `options` say what is sent and expected, `arguments` what LoadGen is to do. Raises a
    `StartupError` when it can't be done as asked, and `OSError` for a folder that can't be written.
    """
    target = parse_target(options.url or DEFAULT_URL)
    arguments.log_dir.mkdir(parents=True, exist_ok=True)
    prepare_runtime()
    prepared = prepare(options, Progress())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(loadgen, options, arguments, target, prepared))


async def _measure(
    loadgen: Any, options: BenchOptions, arguments: argparse.Namespace, target: Target,
    prepared: Prepared,
) -> dict[str, Any]:  # fmt: skip
    images, expected = prepared
    _, model = await describe_server(target, options)
    tolerance = TOLERANCE if model.tolerance is None else model.tolerance
    if expected is None:
        all_labels = classify_path(options.model, model.classes or 2)
        expected = await from_server(
            target, images, all_labels, options.timeout_s, lambda _: None, tolerance
        )
    accuracy = arguments.mode == "accuracy"
    client = QueryClient(
        target,
        requests_of(options, target, images),
        Checker(expected, tolerance),
        _completer(loadgen, logged=accuracy),
        connections=arguments.connections or CONNECTIONS[arguments.scenario],
        timeout_s=options.timeout_s,
        retry_refused=arguments.scenario == "Offline",
    )
    await client.open()
    gc.collect()
    gc.disable()  # a collection stops the client for as long as it takes
    cpu_s, started = time.process_time(), time.perf_counter()
    try:
        await _start_test(loadgen, _settings(loadgen, arguments), arguments, client, len(images))
    finally:
        gc.enable()
        cpu_s, seconds = time.process_time() - cpu_s, time.perf_counter() - started
        await client.close()
    detail, counts = read_detail(arguments.log_dir), client.counts
    metric = None if accuracy else metric_of(arguments.scenario, detail)
    answers = read_accuracy(arguments.log_dir, expected, tolerance) if accuracy else None
    failed = sum(counts.failures.values())
    right = answers is None or answers.right == answers.samples == len(images)
    # In the accuracy mode LoadGen only writes down what it is told.
    verdict = None if accuracy else str(detail.get("result_validity", "INVALID"))
    return {
        "machine": describe_machine(),
        "scenario": arguments.scenario,
        "mode": arguments.mode,
        "metric": None if metric is None else metric._asdict(),
        "loadgen_verdict": verdict,
        "valid": verdict in {None, "VALID"} and not failed and right,
        "failed": failed,
        "failures": dict(counts.failures),
        "accuracy": None if answers is None else answers._asdict(),
        "images": {"count": len(images), "bytes": spread([len(image) for image in images])},
        "client": {
            "answered": counts.answered,
            "retries": counts.retries,
            "most_in_flight": counts.most_in_flight,
            "waited_for_connection": counts.waited,
            "seconds": seconds,
            "cpu_cores": cpu_s / seconds,
            "sent_to_answer_ms": spread([s * 1000 for s in counts.wire_s]),
        },
        "loadgen": detail,
        "log_dir": str(arguments.log_dir),
    }


def _completer(loadgen: Any, *, logged: bool) -> Callable[[int, bytes], None]:
    """Return what tells LoadGen of an answer; it copies the body into its log if it is `logged`."""
    response, complete = loadgen.QuerySampleResponse, loadgen.QuerySamplesComplete

    def done(response_id: int, body: bytes) -> None:
        # The buffer has to live until LoadGen has copied it, which is within the call.
        buffer = array("B", body if logged else b"")
        address, size = buffer.buffer_info()
        complete([response(response_id, address if size else 0, size)])

    return done


def _settings(loadgen: Any, arguments: argparse.Namespace) -> Any:
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, arguments.scenario)
    settings.mode = (
        loadgen.TestMode.AccuracyOnly
        if arguments.mode == "accuracy"
        else loadgen.TestMode.PerformanceOnly
    )
    settings.min_duration_ms = round(arguments.min_duration_s * 1000)
    settings.min_query_count = arguments.min_queries
    # Only says how many queries are made beforehand; with too few, a fast server ends the test.
    settings.single_stream_expected_latency_ns = _LEAST_LATENCY_NS
    settings.server_target_qps = arguments.server_target_qps
    settings.server_target_latency_ns = round(arguments.latency_bound_ms * 1e6)
    settings.offline_expected_qps = arguments.offline_expected_qps
    return settings


async def _start_test(
    loadgen: Any, settings: Any, arguments: argparse.Namespace, client: QueryClient, images: int
) -> None:
    """Run LoadGen, which blocks until its test is over, on a thread of its own."""
    output = loadgen.LogOutputSettings()
    output.outdir = str(arguments.log_dir)
    logs = loadgen.LogSettings()
    logs.log_output, logs.enable_trace = output, False
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def run() -> None:
        system = loadgen.ConstructSUT(client.issue, lambda: None)
        library = loadgen.ConstructQSL(images, images, lambda _: None, lambda _: None)
        loadgen.StartTestWithLogSettings(system, library, settings, logs)
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(system)
        loop.call_soon_threadsafe(over.set_result, None)

    threading.Thread(target=run, name="loadgen", daemon=True).start()
    await over
