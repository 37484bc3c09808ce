"""The real program when its device is lost: it logs that, answers 503, and exits."""

from __future__ import annotations

import contextlib
import sys

import httpx
import pytest
from images import colored, encode
from PIL import Image
from process import client_of, serving
from wire import connect, head, read_answer

PROGRAM_THAT_LOSES_ITS_DEVICE = """
import contextlib
import sys
from service.engine.builds import prepare_runtime
prepare_runtime()
from service.contract import PROBABILITIES
from service.engine.cpu import CpuEngine
from service.errors import DeviceLostError

run = CpuEngine.run

def lose(self, pixels, outputs):
    answers = run(self, pixels, outputs)
    if any((pixel == (1, 2, 250)).all() for pixel in (image[0, 0] for image in pixels)):
        raise DeviceLostError("CUDA failure 700: an illegal memory access was encountered")
    return answers

CpuEngine.run = lose
if sys.argv.pop(1) == "hangs":
    import threading
    from service.server import Server
    Server._begin_to_end = lambda self: threading.Event().wait()  # as in a driver
else:  # a busy machine has the time that it needs
    from service import server
    server._LOST_NEWS_S, server._LOST_END_S = 3.0, 60.0
from service.cli import main
sys.exit(main())
"""

FATAL = encode(Image.new("RGB", (20, 12), (1, 2, 250)), "PNG")
"""An image on which the device is lost."""


def losing(model_folder, how: str = "ends"):
    program = [sys.executable, "-c", PROGRAM_THAT_LOSES_ITS_DEVICE, how]
    return serving("--models", model_folder, program=program)


def test_clients_get_503_liveness_fails_and_the_process_ends_with_status_1(model_folder):
    with losing(model_folder) as server:
        with client_of(server) as client:
            assert client.post("/v1/classify", content=colored("red")).status_code == 200
            answer = client.post("/v1/classify", content=FATAL)
            assert answer.status_code == 503
            live = client.get("/livez")
            assert live.status_code == 503
            assert "CUDA failure 700" in live.json()["reasons"][0]
        assert server.exit_status() == 1
        events = [event["event"] for event in server.events]
        assert events.count("device_lost") == 1
        assert events[-1] == "stopped"


def test_what_hangs_does_not_keep_it_from_ending(model_folder):
    with losing(model_folder, "hangs") as server:
        with client_of(server) as client, pytest.raises(httpx.RemoteProtocolError):
            client.post("/v1/classify", content=FATAL)
        assert server.exit_status() == 1
        assert server.events[-1]["event"] == "stopped_at_once"


def test_a_loss_while_stopping_answers_who_is_left(model_folder):
    """They no longer wait for the drain timeout, since nothing can be answered."""
    with losing(model_folder) as server:
        with connect(server.url) as fatal, connect(server.url) as slow:
            fatal.sendall(head(Content_Length=len(FATAL)) + FATAL[:-1])
            slow.sendall(head(Content_Length=100) + b"x")
            with client_of(server) as client:
                while f"inflight_bytes {len(FATAL)}.0" not in client.get("/metrics").text:
                    pass
            server.signal()
            server.wait_for("draining")
            with contextlib.suppress(OSError):
                while True:  # until it accepts no more connections: it waits for these two
                    connect(server.url).close()
            fatal.sendall(FATAL[-1:])
            assert read_answer(fatal)[0] == 503
            assert read_answer(slow)[0] == 503
        assert server.exit_status() == 1
        assert server.events[-1]["event"] == "stopped"
