"""The real process among clients of every kind: all who wait are answered, nothing leaks.

Random choices come from a seed; how the clients' actions interleave is up to the machine, and
nothing is asserted about how long anything takes.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from chaos import Crowd
from chaos_requests import Limits, Picture
from images import colored, encode, photo, top_label
from PIL import Image
from process import Serving, client_of, serving
from prometheus_client import Gauge
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs
from waiting import wait_until
from wire import connect, head, read_answer

from service.contract import parse_contract
from service.engine.base import Outputs, Pixels, probabilities
from service.engine.onnx import load_engine
from service.models.files import builtin_file
from service.preprocess.decode import DecodePolicy, decode

SEED = 20_26
CLIENTS = 24
WARM_UP_S, CHAOS_S = 1.5, 4.0
LAST_ANSWERS = 60
"""Answers of the last crowd to wait for before the signal, so that it comes under load."""

GROWTH_KB = 32 * 1024
"""Allowed growth of resident memory. Up to 6 MB were measured; allocators differ."""

LIMITS = Limits(max_body_bytes=200_000, max_images=4, body_timeout_s=1.0)
FLAGS = [
    "--runners", 3, "--decode-threads", 2, "--max-batch", 4, "--max-queue", 24,
    "--max-images", LIMITS.max_images, "--max-body-bytes", LIMITS.max_body_bytes,
    "--max-inflight-bytes", 2_000_000, "--max-image-pixels", 1_000_000,
    "--body-timeout-s", LIMITS.body_timeout_s, "--drain-timeout-s", 20, "--log-level", "debug",
]  # fmt: skip

REFUSED_AT_ADMISSION = {"queue_full", "deadline_unreachable"}


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    """Return images with distinct labels, as computed from the model file alone."""
    engine = load_engine(builtin_file().path, provider="cpu", intra_op_threads=1)
    contract = parse_contract(engine.metadata, file="the built-in model")
    by_label: dict[str, Picture] = {}
    for seed in range(40):
        data = encode(photo(160, 120, seed), "JPEG")
        pixels = decode(data, contract.preprocessing, DecodePolicy(10**6, 4)).pixels
        label = contract.labels[int(probabilities(engine, [pixels])[0].argmax())].label
        by_label.setdefault(label, Picture(data, label))
    assert len(by_label) >= 6, "answers of other images could not be told apart"
    return list(by_label.values())


@dataclass(frozen=True)
class Vitals:
    """The resources that a process holds."""

    threads: int
    files: int
    resident_kb: int


def vitals(pid: int) -> Vitals:
    process = psutil.Process(pid)
    with process.oneshot():
        resident_kb = process.memory_info().rss // 1024
        return Vitals(process.num_threads(), process.num_fds(), resident_kb)


def samples(client: httpx.Client) -> dict[str, float]:
    """Return metrics by name, summed over their labels."""
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
    return sums


AT_REST = {
    "resnet_serve_requests_in_flight": 1,  # the scrape itself
    "resnet_serve_queue_length": 0,
    "resnet_serve_inflight_bytes": 0,
}


def at_rest(client: httpx.Client, server: Serving, files: int | None = None) -> Vitals:
    """Wait until the server is idle, with at most `files` open files.

    Return the resources that it holds then. The one connection is the client's.
    """

    def held() -> dict[str, float]:
        return {name: value for name, value in samples(client).items() if name in AT_REST}

    def now() -> Vitals:
        return vitals(server.process.pid)

    wait_until(
        lambda: held() == AT_REST and (files is None or now().files <= files),
        lambda: (held(), now(), files),
    )
    return now()


def sleep_for(seconds: float) -> Callable[[Crowd], Awaitable[None]]:
    async def end(_: Crowd) -> None:
        await asyncio.sleep(seconds)

    return end


def requests_logged(server: Serving) -> dict[str, dict]:
    """Return each request's log line by its id."""
    return {str(e["request_id"]): e for e in server.events if e["event"] == "request"}


@pytest.mark.parametrize("flags", [[], ["--coalesce"]], ids=["", "coalesce"])
def test_among_clients_of_every_kind_everybody_is_answered_and_nothing_is_kept(pictures, flags):
    """And SIGTERM in the middle of it is a clean stop: accepted requests get an answer."""
    with serving(*FLAGS, *flags) as server, client_of(server) as client:
        warm_up, chaos, last = (
            Crowd(server.url, pictures, LIMITS, name) for name in ("warm", "chaos", "last")
        )
        fresh = at_rest(client, server)
        asyncio.run(warm_up.run(CLIENTS, SEED, sleep_for(WARM_UP_S)))
        before = at_rest(client, server, files=fresh.files)
        asyncio.run(chaos.run(CLIENTS, SEED + 1, sleep_for(CHAOS_S)))
        after = at_rest(client, server, files=fresh.files)
        images = samples(client)["resnet_serve_images_total"]

        async def stop_in_the_middle(crowd: Crowd) -> None:
            await crowd.has_answers(LAST_ANSWERS)
            crowd.stopping = True
            server.signal()
            await asyncio.to_thread(server.process.wait, 60)

        asyncio.run(last.run(CLIENTS, SEED + 2, stop_in_the_middle))
        assert server.exit_status() == 0
        assert server.events[-1]["event"] == "stopped"
        assert server.events[-1]["unanswered"] == 0

    crowds = (warm_up, chaos, last)
    assert [complaint for crowd in crowds for complaint in crowd.complaints] == []
    assert all(any(outcome.is_ok for outcome in crowd.outcomes) for crowd in crowds)

    logged = requests_logged(server)
    for outcome in (outcome for crowd in crowds for outcome in crowd.outcomes):
        line = logged.get(outcome.request.id)
        if outcome.answer is None:
            assert line is None, f"accepted, and not answered: {outcome}"
        else:
            assert line is not None, f"answered, and not logged: {outcome}"
            assert line["status"] == outcome.answer.status
    assert errors_logged(server) == []

    assert after.threads == before.threads
    assert after.resident_kb < before.resident_kb + GROWTH_KB
    admitted = sum(
        line["images"]
        for id_, line in logged.items()
        if not id_.startswith("last") and line["code"] not in REFUSED_AT_ADMISSION
    )
    assert images == admitted, "each image that was admitted is counted by its outcome, once"


def errors_logged(server: Serving) -> list[object]:
    """Return the errors in the log, each with its traceback if it has one."""
    errors = [event for event in server.events if event["level"] in {"error", "critical"}]
    return [event.get("exception", event) for event in errors]


def test_a_client_that_leaves_with_requests_in_line_is_no_error_of_the_service(model_folder):
    """The first of two pipelined requests runs when the connection is reset: it is dropped."""
    request = head(Content_Length=len(colored())) + colored()
    with (
        serving("--models", model_folder, "--max-delay-ms", 10_000) as server,
        client_of(server) as client,
    ):
        with connect(server.url) as connection:
            connection.sendall(2 * request)
            while queued(client) == 0:
                pass
            reset_on_close(connection)
        while queued(client):
            pass
        server.signal()
        assert server.exit_status() == 0
    (first,) = [event for event in server.events if event["event"] == "request"]
    assert (first["status"], first["code"]) == (499, "client_disconnected")
    assert errors_logged(server) == []


def queued(client: httpx.Client) -> int:
    return client.get("/health").json()["models"][0]["queue"]["images"]


def reset_on_close(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


POISON = (1, 2, 250)
"""A colour on which the engine fails; otherwise it would be labelled blue."""


class FaultyEngine:
    """Always fails on poisoned images, and at random on batches of several.

    Not on single images, since the service retries those of a failed batch once, one by one.
    """

    def __init__(self, run: Callable[..., Outputs]) -> None:
        self._run = run
        self._chance = random.Random(SEED)
        self._lock = threading.Lock()
        self.faults = 0

    def __call__(self, pixels: Pixels, outputs: Sequence[str]) -> Outputs:
        with self._lock:
            fails = len(pixels) > 1 and self._chance.random() < 0.3
            self.faults += fails
        if fails or any((image[0, 0] == POISON).all() for image in pixels):
            raise RuntimeError("an engine's error, not for clients")
        return self._run(pixels, outputs)


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Request this fixture before `serve`: it checks after the server has stopped."""
    threads = set(threading.enumerate())
    yield

    def left() -> set[threading.Thread]:
        return set(threading.enumerate()) - threads

    wait_until(lambda: not left(), left)


def test_an_engine_that_fails_at_random_costs_only_the_poisoned_their_answer(
    no_thread_is_left, serve
):
    """Only their requests get a 500, with an id; and no task is left over."""
    client = serve(runners=3, decode_threads=2, max_batch=4, max_delay_ms=5)
    runtime = client.app.state.runtime
    (model,) = runtime.repository
    model.engine.run = faulty = FaultyEngine(model.engine.run)
    # A gauge runs on the event loop, whose tasks it counts.
    tasks = Gauge("test_tasks", "Tasks of the event loop.", registry=runtime.metrics.registry)
    tasks.set_function(lambda: len(asyncio.all_tasks()))
    rest = AT_REST | {"test_tasks": samples(client)["test_tasks"]}

    images = {"red": colored("red"), "green": colored("green")}
    images["poison"] = encode(Image.new("RGB", (20, 12), POISON))
    several = [("files", data) for data in images.values()]
    sends = random.Random(SEED).choices([*images], (4, 4, 1), k=300)
    with capture_logs() as logs, ThreadPoolExecutor(16) as pool:
        post = partial(client.post, "/v1/classify")
        answers = list(pool.map(lambda name: post(content=images[name]), sends))
        forms = list(pool.map(lambda _: post(files=several), range(50)))

    assert faulty.faults, "batches of several have failed"
    causes = {log["request_id"]: log["exc_info"] for log in logs if log["log_level"] == "error"}
    for name, answer in zip(sends, answers, strict=True):
        if name == "poison":
            problem = answer.json()
            assert (answer.status_code, problem["code"]) == (500, "inference_failed")
            assert problem["request_id"] == answer.headers["x-request-id"]
            assert "not for clients" not in answer.text
            assert "not for clients" in str(causes[problem["request_id"]])
        else:
            assert (answer.status_code, top_label(answer)) == (200, name)
    for answer in forms:
        red, green, poison = answer.json()["results"]
        assert [red["labels"][0]["label"], green["labels"][0]["label"]] == ["red", "green"]
        assert poison["error"]["code"] == "inference_failed"

    def now() -> dict[str, float]:
        return {name: value for name, value in samples(client).items() if name in rest}

    wait_until(lambda: now() == rest, now)
    assert client.get("/livez").status_code == 200


PROGRAM_THAT_HANGS = """
import os, sys, threading
from service.engine.builds import prepare_runtime
prepare_runtime()
from service.engine.cpu import CpuEngine

run, where = CpuEngine.run, sys.argv.pop(1)

def hang(self, pixels, outputs):
    if threading.current_thread().name.startswith(where):
        os.write(2, b"hanging\\n")  # past the log's thread
        threading.Event().wait()
    return run(self, pixels, outputs)

CpuEngine.run = hang
from service.cli import main
sys.exit(main())
"""


def hanging(where: str, model_folder: Path) -> AbstractContextManager[Serving]:
    """Start the program with an engine that never finishes a batch on threads with that name."""
    program = [sys.executable, "-c", PROGRAM_THAT_HANGS, where]
    flags = ("--models", model_folder, "--drain-timeout-s", 1)
    return serving(*flags, ready=False, program=program)


def wait_until_it_hangs(server: Serving) -> None:
    """Wait for the engine's message, which may precede older lines of the log's own thread."""
    while all(event.get("text") != "hanging" for event in server.events):
        server.wait_for("native_output")


def test_a_warm_up_that_hangs_keeps_no_process_alive(model_folder):
    """The drain timeout ends it; no request had been accepted, so the stop is clean."""
    with hanging("warm-up", model_folder) as server:
        wait_until_it_hangs(server)
        with client_of(server) as client:
            refused = client.post("/v1/classify", content=colored())
            assert (refused.status_code, refused.json()["code"]) == (503, "model_not_ready")
        server.signal()
        assert server.exit_status() == 0


@pytest.mark.parametrize("waits", [True, False])
def test_a_batch_that_hangs_keeps_no_process_alive(model_folder, waits):
    """A request waiting for it gets an error, and the exit status reports it."""
    with hanging("runner", model_folder) as server:
        server.wait_for("model_ready")
        with connect(server.url) as connection:
            connection.sendall(head(Content_Length=len(colored())) + colored())
            wait_until_it_hangs(server)
            if not waits:
                connection.close()
                assert server.wait_for("request")["code"] == "client_disconnected"
            server.signal()
            if waits:
                status, answer = read_answer(connection)
                assert status == 503
                assert b'"code":"stopping"' in answer
        assert server.exit_status() == (1 if waits else 0)
