"""Bodies that are too large, too slow, too many, or whose client leaves."""

from __future__ import annotations

import contextlib
import json
import socket

import pytest
from engines import hold
from images import colored, top_label
from waiting import wait_until
from wire import connect, head, read_all, read_answer


def code_of(answer: bytes) -> str:
    return json.loads(answer)["code"]


@pytest.fixture
def held_engine(serve):
    """A server whose engine waits at a gate that the test opens."""
    client = serve(max_batch=1, runners=1)
    engine = hold(client)
    yield client, engine
    engine.open.set()


def still_answers(client) -> bool:
    return top_label(client.post("/v1/classify", content=colored("green"))) == "green"


def test_an_empty_body_is_refused(client):
    response = client.post("/v1/classify")
    assert (response.status_code, response.json()["code"]) == (400, "empty_body")
    assert still_answers(client)


def test_a_body_announced_too_large_is_refused_before_it_is_read(serve):
    """Not a byte of it has been sent, and the connection is closed after the answer."""
    client = serve(max_body_bytes=3_000_000)
    with connect(client.base_url) as connection:
        connection.sendall(head(Content_Length=3_000_001))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    assert code_of(answer.partition(b"\r\n\r\n")[2]) == "body_too_large"
    assert still_answers(client)


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(serve):
    """Its length was never announced; the client learns it while it still sends."""
    client = serve(max_body_bytes=1000)
    with connect(client.base_url) as connection:
        connection.sendall(head(Transfer_Encoding="chunked") + b"400\r\n" + b"x" * 1024 + b"\r\n")
        status, body = read_answer(connection)
    assert (status, code_of(body)) == (413, "body_too_large")
    assert still_answers(client)


def test_a_refused_client_that_sends_on_can_still_read_why(serve):
    """The server reads on for a moment; a reset would destroy the answer on its way."""
    client = serve(max_body_bytes=1000)
    response = client.post("/v1/classify", content=bytes(3_500_000))
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


def test_a_client_that_waits_for_continue_is_refused_without_it(serve):
    """It never sends the body that would be refused."""
    client = serve(max_body_bytes=1000)
    with connect(client.base_url) as connection:
        connection.sendall(head(Content_Length=2000, Expect="100-continue"))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_after_a_small_refused_body_the_connection_goes_on(client):
    """Skipping a few bytes is cheaper than a new connection."""
    with connect(client.base_url) as connection:
        body = colored("blue")
        for _ in range(2):
            connection.sendall(head("/v1/classify?top_k=0", Content_Length=len(body)) + body)
            status, answer = read_answer(connection)
            assert (status, code_of(answer)) == (400, "top_k_out_of_range")
        connection.sendall(head(Content_Length=len(body)) + body)
        assert read_answer(connection)[0] == 200


def test_a_body_that_dribbles_gets_408_in_all_however_often_it_moves(serve):
    """The limit is on the whole body: a byte now and then does not stretch it."""
    client = serve(body_timeout_s=1)
    with connect(client.base_url) as connection:
        connection.sendall(head(Content_Length=1000) + b"x")
        connection.settimeout(0.05)
        answer = b""
        while not answer:
            try:
                connection.sendall(b"x")
                answer = connection.recv(65536)
            except TimeoutError:
                pass
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"body_timeout"' in answer
    assert still_answers(client)


@pytest.mark.parametrize(
    ("limits", "timeout", "limit"),
    [
        ({"body_timeout_s": 0.2, "request_timeout_ms": 200}, None, "ms (X-Request-Timeout-Ms"),
        ({"body_timeout_s": 20, "request_timeout_ms": 200}, None, "200 ms (X-Request-Timeout-Ms"),
        ({"body_timeout_s": 20}, "200", "200 ms (X-Request-Timeout-Ms"),
        ({"body_timeout_s": 0.2}, "9000", "0.2 s (body_timeout_s)"),
    ],
)
def test_a_body_that_is_late_is_the_clients_408_by_whichever_limit(serve, limits, timeout, limit):
    """Equal limits, as both are by default, must not become a 504, which is the service's."""
    client = serve(**limits)
    headers = {} if timeout is None else {"X_Request_Timeout_Ms": timeout}
    with connect(client.base_url) as connection:
        connection.sendall(head(Content_Length=1000, **headers) + b"x")
        status, body = read_answer(connection)
    assert (status, code_of(body)) == (408, "body_timeout")
    assert limit in json.loads(body)["detail"]


def test_bodies_in_flight_are_limited_together(serve):
    """A second body that does not fit beside the first gets 503, and fits once that has gone."""
    client = serve(max_body_bytes=10_000, max_inflight_bytes=10_000)
    image = colored("red")
    with connect(client.base_url) as first:
        sent = 10_000 - len(image) + 1
        first.sendall(head(Content_Length=10_000) + bytes(sent))
        wait_until(lambda: client.app.state.runtime.body_bytes.held >= sent)
        response = client.post("/v1/classify", content=image)
        assert response.status_code == 503
        assert response.json()["code"] == "too_many_bytes_in_flight"
        assert int(response.headers["retry-after"]) >= 1
    wait_until(lambda: not client.app.state.runtime.body_bytes.held)
    assert still_answers(client)


def test_clients_that_announce_much_and_send_nothing_keep_nobody_out(serve):
    """Bytes count as they arrive, so that eight silent clients can't fill the service."""
    client = serve(max_body_bytes=10_000, max_inflight_bytes=10_000)
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            connection = stack.enter_context(connect(client.base_url))
            connection.sendall(head(Content_Length=10_000))
        assert still_answers(client)


def test_a_refusal_in_mid_body_closes_the_connection(serve):
    """What the client sends later would be taken for its next request."""
    client = serve(body_timeout_s=0.2)
    with connect(client.base_url) as connection:
        connection.sendall(head(Content_Length=1000) + b"x")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer.lower()
    with connect(client.base_url) as connection:
        connection.sendall(head("/nope", Content_Length=1000) + b"x")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"connection: close" in answer.lower()


def test_an_offer_to_upgrade_is_passed_over_and_its_body_is_read(client):
    """Java's HTTP client offers HTTP/2 with each request; nothing may be smuggled in its body."""
    body = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n"
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAA"}
    with connect(client.base_url) as connection:
        connection.sendall(head(Content_Length=len(body), **upgrade))
        connection.sendall(body)
        status, answer = read_answer(connection)
        assert (status, code_of(answer)) == (415, "not_an_image")
        image = colored("blue")
        connection.sendall(head(Content_Length=len(image)) + image)
        status, answer = read_answer(connection)
    assert status == 200
    assert b"blue" in answer


def test_endless_headers_are_refused(client):
    with connect(client.base_url) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(b"x" * 65536)
        connection.settimeout(60)
        with contextlib.suppress(ConnectionError):
            assert connection.recv(65536).startswith(b"HTTP/1.1 4")
    assert still_answers(client)


def test_a_client_that_closes_its_side_counts_as_gone(client):
    """Nothing tells a half-closed connection from one whose client has left."""
    body = colored("red")
    with connect(client.base_url) as connection:
        connection.sendall(head(Content_Length=len(body) + 1) + body)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == b""
    assert still_answers(client)


def test_a_client_that_leaves_in_mid_body_gives_its_bytes_back(client):
    runtime = client.app.state.runtime
    with connect(client.base_url) as connection:
        connection.sendall(head(Content_Length=1000) + b"x")
        wait_until(lambda: runtime.body_bytes.held != 0)
    wait_until(lambda: not runtime.body_bytes.held)
    assert still_answers(client)
    assert 'reason="client_disconnected"} 1.0' in client.get("/metrics").text


def test_a_client_that_leaves_after_a_large_body_gives_its_bytes_back(held_engine):
    """Uvicorn stops reading at 64 KiB of a body, and without reading nobody sees that it left."""
    client, engine = held_engine
    runtime = client.app.state.runtime
    engine.open.clear()
    body = colored("red", (300, 300), image_format="BMP")
    assert len(body) > 200_000
    with connect(client.base_url) as connection:
        request = head(Content_Length=len(body)) + body
        connection.sendall(request[:-1])
        wait_until(lambda: runtime.body_bytes.held >= len(body) - 1)
        connection.sendall(request[-1:])
        assert engine.entered.acquire(timeout=60)
    wait_until(lambda: not runtime.body_bytes.held)
    engine.open.set()
    assert still_answers(client)


def test_work_of_a_client_that_left_is_dropped_before_inference(held_engine):
    """A closed socket cancels its ticket while that waits for the runner."""
    client, engine = held_engine
    (model,) = client.app.state.runtime.repository
    body = colored("red")
    request = head(Content_Length=len(body)) + body
    with connect(client.base_url) as staying:
        engine.open.clear()
        staying.sendall(request)
        assert engine.entered.acquire(timeout=60)
        with connect(client.base_url) as leaving:
            leaving.sendall(request)
            wait_until(lambda: model.gate.admitted >= 2)
        wait_until(lambda: model.gate.admitted <= 1)
        engine.open.set()
        assert read_answer(staying)[0] == 200
    assert still_answers(client)
    assert len(engine.batches) == 2, "the one that stayed, and the check after it"
    cancelled = 'resnet_serve_images_total{model="color",outcome="cancelled",version="1"} 1.0'
    assert cancelled in client.get("/metrics").text


def test_a_full_queue_is_refused_with_retry_after(serve, held_engine):
    """`max_queue` counts images until they are answered; a request is admitted whole."""
    client, engine = held_engine
    gate = next(iter(client.app.state.runtime.repository)).gate
    gate.limit = 2
    body = colored("red")
    with connect(client.base_url) as first:
        engine.open.clear()
        first.sendall(head(Content_Length=len(body)) + body)
        assert engine.entered.acquire(timeout=60)
        response = client.post("/v1/classify", files=[("f", ("a", body)), ("f", ("b", body))])
        assert (response.status_code, response.json()["code"]) == (503, "queue_full")
        assert int(response.headers["retry-after"]) >= 1
        engine.open.set()
        assert read_answer(first)[0] == 200
    assert still_answers(client)


@pytest.mark.parametrize("codings", [("gzip", "identity"), ("identity", "gzip")])
def test_a_coding_is_seen_in_whichever_of_two_headers_it_is(client, codings):
    headers = [("Content-Encoding", coding) for coding in codings]
    response = client.post("/v1/classify", content=colored(), headers=headers)
    assert response.json()["code"] == "unsupported_content_encoding"


@pytest.mark.parametrize("value", ["", "identity", "IDENTITY", ", identity ,", ","])
def test_what_is_no_coding_is_none(client, value):
    headers = {"Content-Encoding": value}
    response = client.post("/v1/classify", content=colored("green"), headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("value", ["gzip", "identity, gzip", "br,", "x" * 300])
def test_a_compressed_body_is_refused_by_name(client, value):
    response = client.post("/v1/classify", content=b"x", headers={"Content-Encoding": value})
    assert value[:100] in response.json()["detail"]
    assert len(response.json()["detail"]) < 200
    assert (response.status_code, response.json()["code"]) == (
        415, "unsupported_content_encoding",
    )  # fmt: skip
