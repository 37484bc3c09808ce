"""A refused request leaves no cycle behind, which would hold its body until Python looks for it."""

from __future__ import annotations

import base64
import gc
import json
import socket

import pytest
from images import encode, photo
from wire import connect, head, read_answer

CUT_PNG = encode(photo(300, 200), "PNG")[:-5000]
CUT_JPEG = encode(photo(300, 200), "JPEG")[:2000]
NOTHING = b"no image " * 1000
OCTETS, JSON, FORM = (
    "application/octet-stream", "application/json", "multipart/form-data; boundary=b",
)  # fmt: skip


def form(*parts: bytes) -> bytes:
    pieces = [
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + part + b"\r\n"
        for part in parts
    ]
    return b"".join(pieces) + b"--b--\r\n"


def in_json(*images: bytes) -> bytes:
    return json.dumps(
        {"images": [{"data": base64.b64encode(image).decode()} for image in images]}
    ).encode()


REFUSALS = {
    "a PNG that is cut off": (CUT_PNG, OCTETS, 422),
    "a JPEG that is cut off": (CUT_JPEG, OCTETS, 422),
    "what is no image": (NOTHING, OCTETS, 415),
    "an empty body": (b"", OCTETS, 400),
    "a form that is cut off": (form(CUT_PNG)[:-9], FORM, 400),
    "a form without images": (b"--b--\r\n", FORM, 400),
    "a form of broken images": (form(CUT_PNG, CUT_JPEG), FORM, 422),
    "JSON that is cut off": (in_json(CUT_PNG)[:-3], JSON, 400),
    "JSON of broken images": (in_json(CUT_PNG, NOTHING), JSON, 422),
    "JSON of no base64": (b'{"images": [{"data": "%%%"}]}', JSON, 422),
    "another type": (NOTHING, "text/html", 415),
}


def refuse(url: str, body: bytes, media_type: str) -> int:
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
    return names & {"frame", "traceback", "bytes", "ndarray", "_Job", "Ticket", "Way", "Image"} | {
        name for name in names if name.endswith("Error")
    }


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("coalesce", [False, True])
def test_a_refusal_leaves_nothing_for_the_collector(serve, kind, coalesce):
    body, media_type, status = REFUSALS[kind]
    url = serve(coalesce=coalesce).base_url

    def work() -> None:
        assert refuse(url, body, media_type) == status

    assert held_by(unreachable_after(work)) == set()


def test_a_client_that_leaves_leaves_nothing_either(serve):
    client = serve()

    def work() -> None:
        with connect(client.base_url) as connection:
            connection.sendall(head(Content_Length=len(CUT_PNG)) + CUT_PNG)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        while "requests_in_flight 1.0" not in client.get("/metrics").text:  # but for this one
            pass

    assert held_by(unreachable_after(work)) == set()


def test_an_engine_that_fails_leaves_nothing_either(serve):
    client = serve(max_batch=1)
    (model,) = client.app.state.service.repository

    def broken(pixels, outputs):
        raise RuntimeError("a node's own complaint")

    model.engine.run = broken
    image = encode(photo(30, 20), "PNG")

    def work() -> None:
        assert refuse(client.base_url, image, OCTETS) == 500

    assert held_by(unreachable_after(work)) == set()
