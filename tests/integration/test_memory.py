"""Resident memory of the real process after many refused requests.

`benchmarks/refusals.py` sends thousands of each kind.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterator

import psutil
import pytest
from color_model import write_color_model
from images import encode, photo
from process import Serving, client_of, serving
from refusal_kinds import refusals
from waiting import wait_until
from wire import connect, head

MB = 2**20
MOST_GROWTH = 40 * MB
"""Bytes that the C library may keep."""

LEFT_BEHIND = 2 * MOST_GROWTH
"""Bytes that a kind's requests leave at least if each leaves its body."""

IMAGE = photo(900, 640)
PNG = encode(IMAGE, "PNG", compress_level=0)
REFUSALS = refusals(PNG, encode(IMAGE, "JPEG", quality=100, subsampling=0))
LARGE = [kind for kind, refusal in REFUSALS.items() if len(refusal.body) > MB / 4]
"""The others have a few bytes: only millions of requests would make leaks visible here. These
are covered by `tests/service/http/test_refusals_leave_nothing.py`, which counts objects."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("models")
    write_color_model(folder / "color.onnx")
    with serving("--models", folder) as started:
        yield started


def resident(server: Serving) -> int:
    return psutil.Process(server.process.pid).memory_info().rss


def grows_little(server: Serving, send: Callable[[], None], sent: int) -> None:
    """Send `sent` bytes, enough to be noticed if they stayed in memory.

    Freed memory has time to be returned, without any requests meanwhile.
    """
    for _ in range(5):
        send()
    before = resident(server)
    for _ in range(math.ceil(LEFT_BEHIND / sent)):
        send()
    wait_until(lambda: resident(server) < before + MOST_GROWTH)


@pytest.mark.parametrize("kind", LARGE)
def test_refused_requests_do_not_stay_in_memory(server, kind):
    refusal = REFUSALS[kind]
    with client_of(server) as client:

        def send() -> None:
            answer = client.post(
                "/v1/classify", content=refusal.body, headers={"Content-Type": refusal.media_type}
            )
            assert answer.status_code == refusal.status
            assert server.wait_for("request")["status"] == refusal.status

        grows_little(server, send, len(refusal.body))


@pytest.mark.parametrize("sent", [0.5, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["a PNG that is cut off", "a form of broken images"])
def test_requests_of_clients_that_leave_do_not_stay_in_memory(server, kind, sent):
    """Clients that leave in the middle of a body, or before the answer."""
    refusal = REFUSALS[kind]
    body = refusal.body[: int(len(refusal.body) * sent)]
    request = head(Content_Type=refusal.media_type, Content_Length=len(refusal.body)) + body

    def send() -> None:
        with connect(server.url) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)  # so that the server notices
        assert server.wait_for("request")["status"] in {499, refusal.status}

    grows_little(server, send, len(body))
