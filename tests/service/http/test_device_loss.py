"""A device that is lost: nobody waits in vain, and every probe says so at once."""

from __future__ import annotations

import threading

import pytest
from color_model import write_color_model
from images import colored
from structlog.testing import capture_logs
from waiting import wait_until

from service.errors import DeviceLostError
from service.metrics import Metrics
from service.models.loader import load_repository
from service.settings import Settings

POST = "/v1/classify"
LOST = DeviceLostError("CUDA failure 700: an illegal memory access was encountered")


def lose_device(model) -> None:
    def run(pixels, outputs):
        raise LOST

    model.engine.run = run


@pytest.fixture
def two_models(model_folder):
    write_color_model(model_folder / "other.onnx", name="other")
    return model_folder


def test_all_models_answer_503_and_liveness_fails_at_once(two_models, serve):
    """They share the device; only a new process has it back."""
    with capture_logs() as logs:
        client = serve(default_model="color")
        repository = client.app.state.runtime.repository
        ended = threading.Event()
        repository.on_device_lost = ended.set
        lose_device(repository.find("color"))
        response = client.post(POST, content=colored())
        assert (response.status_code, response.json()["code"]) == (503, "model_unavailable")
        assert "retry-after" in response.headers
        for name in ("color", "other"):
            refused = client.post(f"{POST}?model={name}", content=colored())
            assert (refused.status_code, refused.json()["code"]) == (503, "model_not_ready")
            assert "the device was lost: CUDA failure 700" in refused.json()["detail"]
        live = client.get("/livez")
        assert live.status_code == 503
        assert "CUDA failure 700" in live.json()["reasons"][0]
        assert client.get("/readyz").status_code == 503
        assert client.get("/health").json()["state"] == "failed"
    assert ended.is_set(), "the server is told to end"
    assert [log["event"] for log in logs].count("device_lost") == 1


def test_what_waits_for_another_model_is_answered_503(two_models, serve):
    client = serve(default_model="color", runners=1, coalesce=False)
    repository = client.app.state.runtime.repository
    color, other = repository.find("color"), repository.find("other")
    begun, go = threading.Event(), threading.Event()

    def run(pixels, outputs):
        begun.set()
        assert go.wait(60)
        raise LOST

    color.engine.run = run
    answers = {}

    def post(name: str) -> None:
        answers[name] = client.post(f"{POST}?model={name}", content=colored())

    threads = [threading.Thread(target=post, args=("color",))]
    threads[0].start()
    assert begun.wait(60)
    threads.append(threading.Thread(target=post, args=("other",)))
    threads[1].start()
    wait_until(lambda: other.gate.admitted)
    go.set()
    for thread in threads:
        thread.join()
    assert {name: answer.status_code for name, answer in answers.items()} == {
        "color": 503,
        "other": 503,
    }


def test_a_device_lost_in_warm_up_is_not_tried_again(model_folder):
    settings = Settings.model_validate({"models": model_folder, "provider": "cpu"})
    repository = load_repository(settings, Metrics())
    (model,) = repository
    lose_device(model)
    model.warm_up(threading.Event())
    assert model.state == "failed"
    assert repository.lost is LOST
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reload-")]
    repository.close(60)


def test_several_images_of_which_none_could_be_run_are_a_503_too(serve):
    """A client or proxy tries that again, and a 422 it does not."""
    client = serve(max_batch=1)
    (model,) = client.app.state.runtime.repository
    lose_device(model)
    files = [("files", ("a.png", colored(name))) for name in ("red", "green", "blue")]
    response = client.post(POST, files=files)
    assert (response.status_code, response.json()["code"]) == (503, "model_unavailable")
    assert "retry-after" in response.headers
