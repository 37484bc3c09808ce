"""Deadlines and priorities of requests, over real HTTP."""

from __future__ import annotations

import threading

import httpx
import pytest
from engines import hold
from images import colored, top_label


def post(client: httpx.Client, **headers: str) -> httpx.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v1/classify", content=colored("red"), headers=names)


@pytest.fixture
def held(serve):
    """A server whose engine waits at a gate that the test opens."""
    client = serve(max_batch=1, runners=1, stuck_after_s=60)
    (model,) = client.app.state.service.repository
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


def test_a_request_that_can_still_be_answered_in_time_is(client):
    assert top_label(post(client, X_Request_Timeout_Ms="20000")) == "red"


def test_what_the_measured_speed_says_is_late_is_refused_at_once(held):
    """Before its body is read, with the time after which a try is worth it."""
    client, engine, model = held
    for _ in range(40):
        model._latencies.observe(1, 5.0)
    response = post(client, X_Request_Timeout_Ms="3000")
    assert (response.status_code, response.json()["code"]) == (503, "deadline_unreachable")
    assert response.headers["retry-after"] == "3", "just over two seconds are missing"
    assert "5000 ms" in response.json()["detail"]
    assert engine.batches == []


def test_a_request_that_was_accepted_and_got_late_is_told_so_at_its_deadline(held):
    """504 at the deadline, not when the batch before it ends; and it costs no inference."""
    client, engine, model = held
    engine.open.clear()
    with httpx.Client(base_url=client.base_url, timeout=30) as other:
        first = threading.Thread(target=post, args=(other,))
        first.start()
        assert engine.entered.acquire(timeout=20)
        response = post(client, X_Request_Timeout_Ms="200")
        assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")
        engine.open.set()
        first.join()
    assert top_label(post(client)) == "red"
    assert len(engine.batches) == 2
    assert model.gate.admitted == 0


def test_a_models_own_default_timeout_wins(serve):
    client = serve(request_timeout_ms=60_000, model_timeout_ms="color=1")
    (model,) = client.app.state.service.repository
    for _ in range(40):
        model._latencies.observe(1, 0.5)
    assert post(client).json()["code"] == "deadline_unreachable"
    assert post(client, X_Request_Timeout_Ms="9000").status_code == 200


@pytest.mark.parametrize(("broken", "learned"), [(0, 1), (1, 0)])
def test_only_a_request_whose_images_were_all_run_tells_how_long_such_take(client, broken, learned):
    """One that was mostly refused is done early, and says nothing of plans."""
    (model,) = client.app.state.service.repository
    told: list[float] = []
    model.gate.learn = lambda _, took_s, __: told.append(took_s)
    bodies = [colored("red"), b"no image" if broken else colored("blue")]
    files = [("files", ("image", body)) for body in bodies]
    assert client.post("/v1/classify", files=files).status_code == 200
    assert len(told) == learned
