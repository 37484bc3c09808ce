"""Deadlines and priorities of requests, over real HTTP."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from engines import HeldEngine, hold
from images import colored, encode, top_label
from PIL import Image
from waiting import wait_until
from wire import patient_client

from service.batching.costs import Work
from service.batching.ticket import Priority


def post(client: httpx.Client, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/classify", content=colored("red"), headers=names)


@pytest.fixture
def held(serve):
    """A server whose engine waits at a gate that the test opens."""
    client = serve(max_batch=1, runners=1, stuck_after_s=60)
    (model,) = client.app.state.runtime.repository
    engine = hold(client)
    yield client, engine, model
    engine.open.set()


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "-1",
        "1.5",
        "soon",
        "",
        "86400001",
        "9" * 400,
        "٣",
        "0000000019999999999",
        "000000001" + "0" * 400,
    ],
)
def test_a_timeout_that_is_no_whole_number_of_milliseconds_is_refused(client, value):
    response = client.post(
        "/v1/classify", content=colored(), headers={b"X-Request-Timeout-Ms": value.encode()}
    )
    assert (response.status_code, response.json()["code"]) == (400, "invalid_timeout")


def test_a_priority_is_high_or_low(client):
    assert post(client, X_Request_Priority="LOW").status_code == 200
    assert post(client, X_Request_Priority="high").status_code == 200
    response = post(client, X_Request_Priority="urgent")
    assert (response.status_code, response.json()["code"]) == (400, "invalid_priority")


@pytest.mark.parametrize(
    ("name", "values", "code"),
    [
        ("X-Request-Timeout-Ms", ("5000", "6000"), "invalid_timeout"),
        ("X-Request-Priority", ("low", "high"), "invalid_priority"),
    ],
)
def test_a_header_that_is_given_twice_with_different_values_is_refused(client, name, values, code):
    """Nobody guesses which one counts; the same value twice says one thing."""
    headers = [(name, value) for value in values]
    response = client.post("/v1/classify", content=colored(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (400, code)
    assert repr(", ".join(values)) in response.json()["detail"]
    headers = [(name, values[0])] * 2
    assert client.post("/v1/classify", content=colored(), headers=headers).status_code == 200


def test_a_request_that_can_still_be_answered_in_time_is(client):
    assert top_label(post(client, X_Request_Timeout_Ms="20000")) == "red"


@contextmanager
def one_under_way(client: httpx.Client, engine: HeldEngine) -> Iterator[None]:
    """Keep a server from being idle: its engine holds a request until the end of the block."""
    engine.open.clear()
    with patient_client(client.base_url) as other:
        patient = {"X_Request_Timeout_Ms": "86400000"}
        first = threading.Thread(target=post, args=(other,), kwargs=patient)
        first.start()
        try:
            assert engine.entered.acquire(timeout=60)
            yield
        finally:
            engine.open.set()
            first.join()


def test_what_the_measured_speed_says_is_late_is_refused_at_once(held):
    """Before its body is read, with the time after which a try is worth it."""
    client, engine, model = held
    for _ in range(40):
        model._latencies.observe(1, 300.0)
    with one_under_way(client, engine):
        response = post(client, X_Request_Timeout_Ms="60000")
        assert (response.status_code, response.json()["code"]) == (503, "deadline_unreachable")
        assert int(response.headers["retry-after"]) >= 300 - 60
        assert "X-Request-Timeout-Ms" in response.json()["detail"]
    assert len(engine.batches) == 1


def test_an_idle_server_tries_whatever_its_speed_is_said_to_be(held):
    """Nobody suffers by it, and what was measured may be wrong."""
    client, _, model = held
    for _ in range(40):
        model._latencies.observe(1, 300.0)
    assert top_label(post(client, X_Request_Timeout_Ms="20000")) == "red"


def test_a_large_image_shuts_out_no_small_ones_after_it(client):
    """A small one takes no longer than before, whatever the time of a large one was."""
    (model,) = client.app.state.runtime.repository
    with model.gate.admit(1):  # due after all others, and not idle
        large = encode(Image.new("RGB", (6000, 4000)), "PNG")
        response = client.post("/v1/classify", content=large)
        assert response.status_code == 200
        # Half of what the large one took: there is more where the machine is busy.
        time_s = response.json()["timings_ms"]["decode"] / 2000
        model.gate.check(1, time.perf_counter() + time_s, Priority.HIGH, [Work("png", 4096, 8000)])


def test_forms_that_have_a_day_keep_nobody_out(held):
    """Neither by their work nor by their places."""
    client, engine, model = held
    image = encode(Image.new("RGB", (300, 300)), "PNG")
    form = [("files", ("image", image))] * 32
    day = {"X-Request-Timeout-Ms": "86400000"}
    with contextlib.ExitStack() as clients, one_under_way(client, engine):

        def send() -> None:
            with patient_client(client.base_url) as other:
                codes.append(other.post("/v1/classify", files=form, headers=day).status_code)

        codes: list[int] = []
        senders = [threading.Thread(target=send) for _ in range(6)]
        for sender in senders:
            sender.start()
            clients.callback(sender.join)
        wait_until(lambda: len(codes) == 3)  # refused: the others fill half of the places
        assert (codes, model.gate.admitted) == ([503] * 3, 1 + 3 * 32)
        model.gate.check(1, time.perf_counter() + 20, Priority.HIGH)


def test_a_request_that_was_accepted_and_got_late_is_told_so_at_its_deadline(held):
    """504 at the deadline, not when the batch before it ends; and it costs no inference."""
    client, engine, model = held
    with one_under_way(client, engine):
        # Time to be let in also where the machine is busy.
        response = post(client, X_Request_Timeout_Ms="2000")
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
    assert top_label(post(client)) == "red"
    assert len(engine.batches) == 2
    assert model.gate.admitted == 0


def test_a_models_own_default_timeout_wins(serve):
    client = serve(request_timeout_ms=60_000, model_timeout_ms="color=1", max_batch=1, runners=1)
    (model,), engine = client.app.state.runtime.repository, hold(client)
    for _ in range(40):
        model._latencies.observe(1, 0.5)
    with one_under_way(client, engine):
        assert post(client).json()["code"] == "deadline_unreachable"
    assert post(client, X_Request_Timeout_Ms="20000").status_code == 200


@pytest.mark.parametrize(("broken", "learned"), [(0, 1), (1, 0)])
def test_only_a_request_whose_images_were_all_run_tells_how_long_such_take(client, broken, learned):
    """One that was mostly refused is done early, and says nothing of plans."""
    (model,) = client.app.state.runtime.repository
    told: list[float] = []
    model.gate.learn = lambda _, took_s, __: told.append(took_s)
    bodies = [colored("red"), b"no image" if broken else colored("blue")]
    files = [("files", ("image", body)) for body in bodies]
    assert client.post("/v1/classify", files=files).status_code == 200
    assert len(told) == learned
