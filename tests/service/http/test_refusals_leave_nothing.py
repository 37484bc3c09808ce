"""A refused request leaves no cycle behind, which would hold its body until Python looks for it."""

from __future__ import annotations

import gc
import socket

import pytest
from color_model import write_color_model
from images import colored, encode, photo
from refusal_kinds import OCTETS, refusals
from waiting import wait_until
from wire import connect, head, read_answer

from service.batching.job_source import Job
from service.batching.ticket import Ticket
from service.http.exchange import Exchange
from service.inference.coalescing import PendingImage
from service.inference.pipeline import _Run
from service.inference.record import RequestRecord

PNG = encode(photo(300, 200), "PNG")
REFUSALS = refusals(PNG, encode(photo(300, 200), "JPEG"))


def send(url: str, body: bytes, media_type: str = OCTETS) -> int:
    with connect(url) as connection:
        connection.sendall(head(Content_Type=media_type, Content_Length=len(body)) + body)
        return read_answer(connection)[0]


def unreachable_after(work) -> list[object]:
    """What only the garbage collector could free of some calls, beyond the first."""
    work()
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            work()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return [*gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def held_by(garbage: list[object]) -> set[str]:
    names = {type(thing).__name__ for thing in garbage}
    ours = {each.__name__ for each in (Job, _Run, Exchange, PendingImage, RequestRecord, Ticket)}
    return names & {"frame", "traceback", "bytes", "ndarray", "Image", *ours} | {
        name for name in names if name.endswith("Error")
    }


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("coalesce", [False, True])
def test_a_refusal_leaves_nothing_for_the_collector(serve, kind, coalesce):
    refusal = REFUSALS[kind]
    url = serve(coalesce=coalesce).base_url

    def work() -> None:
        assert send(url, refusal.body, refusal.media_type) == refusal.status

    assert held_by(unreachable_after(work)) == set()


@pytest.mark.parametrize(
    ("target", "accept", "body", "status"),
    [
        ("/v1/embed", "*/*", b"text", 415),
        ("/v1/embed", OCTETS, b"text", 415),
        ("/v1/explain", "*/*", b"text", 415),
        ("/v1/explain", "*/*", PNG, 413),
        ("/v1/explain", "application/json", PNG, 200),
        ("/v1/embed", "*/*", PNG, 200),
    ],
)
def test_what_uses_a_models_other_outputs_leaves_nothing_either(
    serve, model_folder, target, accept, body, status
):
    """The image to be drawn on is refused for its memory, when it is about to be drawn."""
    write_color_model(model_folder / "color.onnx", extra_outputs=True)
    url = serve(max_decoding_bytes=20_000_000).base_url

    def work() -> None:
        with connect(url) as connection:
            request = head(target, Accept=accept, Content_Length=len(body)) + body
            connection.sendall(request)
            assert read_answer(connection)[0] == status

    assert held_by(unreachable_after(work)) == set()


def test_a_client_that_leaves_leaves_nothing_either(serve):
    client = serve()

    def work() -> None:
        with connect(client.base_url) as connection:
            connection.sendall(head(Content_Length=len(PNG)) + PNG)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        while "requests_in_flight 1.0" not in client.get("/metrics").text:  # but for this one
            pass

    assert held_by(unreachable_after(work)) == set()


@pytest.mark.parametrize(
    "request_head",
    [
        b"POST /v1/classify HTTP/1.1\r\nContent-Length: 3\r\nX-Long: "
        + b"x" * 50_000
        + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n",
        b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n" * 40,
    ],
    ids=["no host", "no request", "a bad host", "a long head", "a broken chunk", "a pipeline"],
)
def test_what_is_no_request_leaves_nothing_either(serve, request_head):
    url = serve().base_url

    def work() -> None:
        with connect(url) as connection:
            connection.sendall(request_head)
            while connection.recv(65536):
                pass

    assert held_by(unreachable_after(work)) == set()


def test_an_engine_that_fails_leaves_nothing_either(serve):
    client = serve(max_batch=1)
    (model,) = client.app.state.runtime.repository

    def broken(pixels, outputs):
        raise RuntimeError("a node's own complaint")

    model.engine.run = broken
    image = encode(photo(30, 20), "PNG")

    def work() -> None:
        assert send(client.base_url, image) == 500

    assert held_by(unreachable_after(work)) == set()


def test_an_answered_request_is_in_no_cycle(client):
    """What it held goes at once, and not when Python next looks for cycles."""
    client.post("/v1/classify", content=colored())
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            client.post("/v1/classify", content=colored())
        # The connection keeps its last request.
        wait_until(lambda: sum(type(each) is Exchange for each in gc.get_objects()) <= 1)
    finally:
        gc.enable()
