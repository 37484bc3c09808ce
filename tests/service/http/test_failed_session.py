"""A model whose session fails while its device is well: told, loaded again, and used again."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from engines import FakeOpener, answered
from images import colored, top_label
from structlog.testing import capture_logs
from waiting import wait_until

from service.engine.onnx import load_engine
from service.engine.providers import CUDA
from service.errors import DeviceMemoryError, ProviderError, SessionFailedError
from service.metrics import Metrics
from service.models.loader import load_repository
from service.settings import Settings

POST = "/v1/classify"
FAILED = SessionFailedError("CUDA failure 900: operation not permitted when stream is capturing")


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Reload without the waits of the real back-off."""
    monkeypatch.setattr("service.models.model._RELOAD_FIRST_S", 0.01)
    monkeypatch.setattr("service.models.model._RELOAD_MOST_S", 0.02)


def fail_session(model) -> None:
    def run(pixels, outputs):
        raise FAILED

    model.engine.run = run


def the_model(client):
    (model,) = client.app.state.runtime.repository
    return model


def wait_until_ready(client) -> None:
    while client.get("/readyz").status_code != 200:
        pass


class Watched:
    """An engine that tells whether it was closed; `fault` is what it raises or answers instead."""

    def __init__(self, inner, fault=None) -> None:
        self._inner, self._fault = inner, fault
        self.closed = 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def run(self, pixels, outputs):
        if isinstance(self._fault, Exception):
            raise self._fault
        if self._fault is None:
            return self._inner.run(pixels, outputs)
        return self._fault(pixels)

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
        wait_until(lambda: logs and logs[-1]["event"] == "model_reloaded")
    assert [entry["event"] for entry in logs] == [
        "session_failed", "reload_failed", "model_reloaded",
    ]  # fmt: skip
    assert model.state == "ready"
    assert [each.closed for each in opened] == [1, 0]
    assert engine.closed
    assert model.engine is opened[-1]
    assert model.trouble() is None


@pytest.fixture
def several_chances(model_folder):
    """A model whose engine fails, as does the first one after it."""
    repository = load_repository(Settings(models=model_folder, cache_dir=None), Metrics())
    (model,) = repository
    full = DeviceMemoryError("CUDA failure 2: out of memory")
    model.engine = Watched(model.engine, full)
    yield model, model.engine, reopening_with(model, full, None)
    repository.close(60)


def test_a_failed_session_is_told_and_the_model_comes_back_by_itself(serve):
    client = serve()
    model = the_model(client)
    lost = model.engine
    for _ in range(40):
        model._latencies.observe(1, 9.0)
    fail_session(model)
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
    fail_session(model)
    assert client.post(POST, content=colored()).status_code == 503
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "its session failed" in ready.json()["reasons"][0]
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
        assert go.wait(60)
        return reopen()

    model._reopen = hang
    fail_session(model)
    client.post(POST, content=colored())
    while client.get("/livez").status_code == 200:
        pass
    go.set()
    wait_until_ready(client)


def test_engines_that_fail_or_disagree_are_closed_and_never_serve(serve):
    client = serve()
    model = the_model(client)

    def wrong(images):
        return answered(np.full((len(images), 3), 1 / 3, np.float32))

    opened = reopening_with(model, FAILED, wrong, None)
    fail_session(model)
    client.post(POST, content=colored())
    wait_until_ready(client)
    assert [engine.closed for engine in opened] == [1, 1, 0]
    assert model.engine is opened[-1]
    assert top_label(client.post(POST, content=colored("blue"))) == "blue"


def test_a_second_failure_is_no_less_a_failure(serve):
    client = serve()
    model = the_model(client)
    opened = reopening_with(model, None)
    fail_session(model)
    client.post(POST, content=colored())
    wait_until_ready(client)
    opened[0]._fault = FAILED
    assert client.post(POST, content=colored()).status_code == 503
    wait_until_ready(client)
    assert model.engine is opened[1]
    assert top_label(client.post(POST, content=colored("red"))) == "red"


def test_the_failed_engine_is_closed_before_another_is_opened(serve):
    """There may not be memory for two."""
    client = serve()
    model = the_model(client)
    failed = model.engine = Watched(model.engine)
    model._batcher.resume(failed)
    closed_before, reopen = [], model._reopen

    def opening():
        closed_before.append(failed.closed)
        return reopen()

    model._reopen = opening
    failed._fault = FAILED
    client.post(POST, content=colored())
    wait_until_ready(client)
    assert closed_before == [1]


def test_a_stop_while_it_is_loaded_again_leaves_no_engine_open(serve):
    client = serve()
    model = the_model(client)
    begun, go = threading.Event(), threading.Event()

    def held(images):
        begun.set()
        assert go.wait(60)
        raise RuntimeError("too late")

    opened = reopening_with(model, held)
    fail_session(model)
    client.post(POST, content=colored())
    assert begun.wait(60)
    model.close(60)
    go.set()
    wait_until(lambda: opened[0].closed)
    assert [engine.closed for engine in opened] == [1]


def test_a_session_that_fails_in_warm_up_is_loaded_again_too(model_folder):
    settings = Settings.model_validate({"models": model_folder, "provider": "cpu"})
    (model,) = load_repository(settings, Metrics())
    fail_session(model)
    model.warm_up(threading.Event())
    wait_until(lambda: model.state != "reloading")
    assert model.state == "ready"
    model.close(60)


def test_what_ran_on_a_gpu_does_not_come_back_on_the_cpu(model_folder):
    """Where any provider would do at the start: its plans, threads and metrics are for the GPU."""
    asked: list[str] = []

    def opened(path, *, provider, **options):
        asked.append(provider)
        engine = load_engine(path, provider="cpu", **options)
        engine.provider = CUDA  # type: ignore[misc]  # as if it were on one
        return engine

    settings = Settings.model_validate({"models": model_folder, "max_batch": 2, "cache_dir": None})
    opener = FakeOpener(opened, "auto", on_gpu=True)
    (model,) = load_repository(settings, Metrics(), opener=opener)
    fail_session(model)
    model.warm_up(threading.Event())
    wait_until(lambda: model.state == "ready")
    assert asked == ["auto", "cuda"]
    model.close(60)
