"""A model whose device is lost: told, loaded again, and used again."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from images import colored, top_label
from structlog.testing import capture_logs

from service.errors import DeviceLostError, ProviderError
from service.metrics import Metrics
from service.repository import load_repository
from service.settings import Settings

POST = "/v1/classify"
LOST = DeviceLostError("CUDA failure 700: an illegal memory access was encountered")


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Reload without the waits of the real back-off."""
    monkeypatch.setattr("service.served._RELOAD_FIRST_S", 0.01)
    monkeypatch.setattr("service.served._RELOAD_MOST_S", 0.02)


def lose_device(model) -> None:
    def run(images):
        raise LOST

    model.engine.run = run


def the_model(client):
    (model,) = client.app.state.service.repository
    return model


def wait_until_ready(client) -> None:
    while client.get("/readyz").status_code != 200:
        pass


class Watched:
    """An engine that tells whether it was closed; `fault` is what it raises or answers instead."""

    def __init__(self, inner, fault=None) -> None:
        self._inner, self._fault = inner, fault
        self.provider, self.tf32 = inner.provider, inner.tf32
        self.closed = 0

    def run(self, images):
        if isinstance(self._fault, Exception):
            raise self._fault
        return self._inner.run(images) if self._fault is None else self._fault(images)

    def close(self) -> None:
        self.closed += 1
        self._inner.close()


def reopening_with(model, *faults) -> list[Watched]:
    """Let the model be opened with one fault after the other; the last one stays."""
    opened: list[Watched] = []
    reopen = model._reopen

    def open_watched() -> Watched:
        opened.append(Watched(reopen(), faults[min(len(opened), len(faults) - 1)]))
        return opened[-1]

    model._reopen = open_watched
    return opened


def test_a_warm_up_that_failed_is_tried_again(several_chances):
    """With the failed engine's memory free, and nobody is answered by it."""
    model, engine, opened = several_chances
    with capture_logs() as logs:
        model.warm_up(threading.Event())
        assert engine.closed == 1
        while model.state != "ready":
            pass
    assert [entry["event"] for entry in logs] == [
        "warm_up_failed", "reload_failed", "model_reloaded",
    ]  # fmt: skip
    assert [each.closed for each in opened] == [1, 0]
    assert model.engine is opened[-1]
    assert model.trouble() is None


@pytest.fixture
def several_chances(model_folder):
    """A model whose engine fails, as does the first one after it."""
    repository = load_repository(Settings(models=model_folder, cache_dir=None), Metrics())
    (model,) = repository
    full = RuntimeError("CUDA failure 2: out of memory")
    model.engine = Watched(model.engine, full)
    yield model, model.engine, reopening_with(model, full, None)
    repository.close(5)


def test_a_lost_device_is_told_and_the_model_comes_back_by_itself(serve):
    client = serve()
    model = the_model(client)
    lost = model.engine
    for _ in range(40):
        model._latencies.observe(1, 9.0)
    lose_device(model)
    response = client.post(POST, content=colored())
    assert (response.status_code, response.json()["code"]) == (503, "model_unavailable")
    assert "retry-after" in response.headers
    wait_until_ready(client)
    assert model.engine is not lost
    assert model.latency_ms()[1] < 5000, "what the failing device took is forgotten"
    assert top_label(client.post(POST, content=colored("green"))) == "green"


def test_while_it_is_loaded_again_readiness_goes_and_after_a_while_liveness_too(serve):
    """Where a new session can not help, a new process may; if one helps after all, it is well."""
    client = serve(stuck_after_s=0.2)
    model = the_model(client)
    broken, reopen = True, model._reopen

    def try_to_open():
        if broken:
            raise ProviderError("no CUDA-capable device is detected")
        return reopen()

    model._reopen = try_to_open
    lose_device(model)
    assert client.post(POST, content=colored()).status_code == 503
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "the device was lost" in ready.json()["reasons"][0]
    again = client.post(POST, content=colored())
    assert (again.status_code, again.json()["code"]) == (503, "model_not_ready")
    while client.get("/livez").status_code == 200:
        pass
    assert "no CUDA-capable device" in client.get("/livez").json()["reasons"][0]
    broken = False
    wait_until_ready(client)
    assert client.get("/livez").status_code == 200
    assert client.get("/health").json()["state"] == "ready"


def test_a_reload_that_hangs_is_told(serve):
    """As in a driver that does not answer."""
    client = serve(stuck_after_s=0.1)
    model = the_model(client)
    go, reopen = threading.Event(), model._reopen

    def hang():
        assert go.wait(20)
        return reopen()

    model._reopen = hang
    lose_device(model)
    client.post(POST, content=colored())
    while client.get("/livez").status_code == 200:
        pass
    go.set()
    wait_until_ready(client)


def test_engines_that_fail_or_disagree_are_closed_and_never_serve(serve):
    client = serve()
    model = the_model(client)

    def wrong(images):
        return np.full((len(images), 3), 1 / 3, np.float32)

    opened = reopening_with(model, LOST, wrong, None)
    lose_device(model)
    client.post(POST, content=colored())
    wait_until_ready(client)
    assert [engine.closed for engine in opened] == [1, 1, 0]
    assert model.engine is opened[-1]
    assert top_label(client.post(POST, content=colored("blue"))) == "blue"


def test_a_second_loss_while_the_first_engine_is_being_closed_is_no_less_a_loss(serve):
    client = serve()
    model = the_model(client)
    wait, go, close = threading.Event(), threading.Event(), model.engine.close
    opened = reopening_with(model, None)

    def slow_close() -> None:
        wait.set()
        assert go.wait(20)
        close()

    model.engine.close = slow_close
    lose_device(model)
    client.post(POST, content=colored())
    assert wait.wait(20)
    wait_until_ready(client)
    opened[0]._fault = LOST
    assert client.post(POST, content=colored()).status_code == 503
    wait_until_ready(client)
    go.set()
    assert model.engine is opened[1]
    assert top_label(client.post(POST, content=colored("red"))) == "red"


def test_a_stop_while_it_is_loaded_again_leaves_no_engine_open(serve):
    client = serve()
    model = the_model(client)
    begun, go = threading.Event(), threading.Event()

    def held(images):
        begun.set()
        assert go.wait(20)
        raise RuntimeError("too late")

    opened = reopening_with(model, held)
    lose_device(model)
    client.post(POST, content=colored())
    assert begun.wait(20)
    model.close(20)
    go.set()
    while not opened[0].closed:
        pass
    assert [engine.closed for engine in opened] == [1]


def test_a_device_lost_in_warm_up_is_loaded_again_too(model_folder):
    settings = Settings.model_validate({"models": model_folder, "provider": "cpu"})
    (model,) = load_repository(settings, Metrics())
    lose_device(model)
    model.warm_up(threading.Event())
    while model.state == "reloading":
        pass
    assert model.state == "ready"
    model.close(20)


def test_what_ran_on_a_gpu_does_not_come_back_on_the_cpu(model_folder, monkeypatch):
    """Where any provider would do at the start: its plans, threads and metrics are for the GPU."""
    asked: list[str] = []

    def opened(path, *, provider, **options):
        from service.engine.onnx import load_engine  # noqa: PLC0415 - the real one, not this

        asked.append(provider)
        engine = load_engine(path, provider="cpu", **options)
        engine.provider = "cuda"
        return engine

    monkeypatch.setattr("service.repository.load_engine", opened)
    monkeypatch.setattr("service.tuning.choice.may_run_on_gpu", lambda _: True)
    settings = Settings.model_validate({"models": model_folder, "provider": "auto"})
    (model,) = load_repository(settings, Metrics())
    lose_device(model)
    model.warm_up(threading.Event())
    while model.state == "reloading":
        pass
    assert model.state == "ready"
    assert asked == ["auto", "cuda"]
    model.close(20)
