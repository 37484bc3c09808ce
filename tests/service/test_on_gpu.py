"""The whole service over a fake GPU: what it makes ready, plans by, tells, and does on failures."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
from color_model import write_color_model
from fake_gpu import (
    ILLEGAL_ACCESS,
    OUT_OF_MEMORY,
    FakeDevice,
    fake_cuda,
    gpu_opener,
)
from images import COLOR_VALUES, colored, top_label
from structlog.testing import capture_logs
from waiting import wait_until

from service.engine.providers import CUDA
from service.errors import ProviderError
from service.metrics import Metrics
from service.models.loader import load_repository
from service.models.proving import buckets
from service.settings import Settings
from service.tuning.profile import Profile

POST = "/v1/classify"


@pytest.fixture
def device():
    device = FakeDevice()
    with fake_cuda(device):
        yield device
    assert device.wrong == []


def health(client) -> dict:
    return client.get("/health").json()


def the_model(client):
    (model,) = client.app.state.runtime.repository
    return model


def gpu_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "gpu-0"}


@pytest.fixture
def loaded(model_folder, device):
    """Gives a function that loads a model and warms it up, without a server."""
    repositories, before = [], gpu_threads()

    def load(device: FakeDevice = device, **settings):
        values = {"models": model_folder, "cache_dir": None} | settings
        repository = load_repository(
            Settings.model_validate(values), Metrics(), opener=gpu_opener(device)
        )
        repositories.append(repository)
        with capture_logs() as logs:
            repository.warm_up(threading.Event())
        (model,) = repository
        return model, logs

    yield load
    for repository in repositories:
        repository.close(10)
    assert gpu_threads() <= before


def test_requests_are_answered_rightly_from_all_threads(serve, device):
    client = serve(opener=gpu_opener(device), max_batch=8)
    plans = device.sessions[0].plans

    def post(number: int) -> tuple[str, str]:
        color = list(COLOR_VALUES)[number % len(COLOR_VALUES)]
        return color, top_label(client.post(POST, content=colored(color)))

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(post, range(300)))
    assert all(color == label for color, label in answers)
    assert device.sessions[0].plans == plans, "no size is planned anew"
    assert len(device.sessions) == 1


def test_health_tells_the_gpu_its_memory_and_how_it_computes(serve, device):
    body = health(serve(opener=gpu_opener(device), max_batch=4))
    assert body["devices"] == [
        {
            "device_id": 0,
            "name": None,
            "memory_used_bytes": 20 * 2**30,
            "memory_total_bytes": 80 * 2**30,
        }
    ]
    (model,) = body["models"]
    assert model["engine"] == {"cuda_graphs": True, "layout": "NCHW", "copies": "pinned"}
    assert (model["provider"], model["max_batch"]) == ("cuda", 4)
    assert list(model["latency_ms"]) == ["1", "2", "4"]


def test_the_log_of_the_start_tells_what_was_taken(loaded):
    _, logs = loaded(max_batch=2)
    ready, gpu = logs
    assert (ready["event"], ready["max_batch"]) == ("model_ready", 2)
    assert (ready["cuda_graphs"], ready["layout"], ready["copies"]) == (True, "NCHW", "pinned")
    assert (gpu["event"], gpu["memory_used_bytes"]) == ("gpu", 20 * 2**30)


@pytest.mark.parametrize(
    ("milliseconds", "largest"),
    [
        ({1: 1, 2: 2, 4: 4, 8: 8, 16: 16, 32: 32, 64: 64}, 1),
        ({1: 0.65, 2: 0.7, 4: 0.9, 8: 1.31, 16: 2.1, 32: 3.67, 64: 7.1}, 32),
        ({1: 0.65, 2: 0.7, 4: 0.9, 8: 1.31, 16: 2.1, 32: 3.67, 64: 6.5}, 64),
    ],
)
def test_the_largest_batch_is_measured_where_none_is_set(
    loaded, device, monkeypatch, milliseconds, largest
):
    monkeypatch.setattr("service.models.model_loader.Profile", partial(Profile, clock=device.clock))
    device.batch_s = lambda size: milliseconds[size] / 1000
    model, _ = loaded()
    assert (model.state, model.max_batch) == ("ready", largest)
    assert list(model.latency_ms().values()) == pytest.approx(
        [milliseconds[size] for size in buckets(largest)]
    )
    assert model.engine.sizes == tuple(buckets(model.max_batch))
    assert list(model.latency_ms()) == buckets(model.max_batch)
    assert model.gate.max_batch == model.max_batch


def test_a_given_largest_batch_wins(loaded):
    model, _ = loaded(max_batch=6)
    assert model.engine.sizes == (1, 2, 4, 6)


@pytest.mark.parametrize("too_large", [64, 16, 2])
def test_a_size_that_does_not_fit_the_memory_is_done_without(serve, device, too_large):
    """And requests are answered by what does fit."""
    for size in buckets(64):
        if size >= too_large:
            device.fail[f"capture {size}"] = OUT_OF_MEMORY
    with capture_logs() as logs:
        client = serve(opener=gpu_opener(device), cache_dir=None)
        assert client.get("/readyz").status_code == 200
        assert top_label(client.post(POST, content=colored("green"))) == "green"
    assert the_model(client).max_batch < too_large
    lowered = [log["max_batch"] for log in logs if log["event"] == "max_batch_lowered"]
    assert lowered[-1] == too_large // 2
    assert "session_failed" not in [log["event"] for log in logs]


def test_a_size_that_does_not_fit_any_more_when_the_model_is_loaded_again_is_done_without(
    serve, device, monkeypatch
):
    monkeypatch.setattr("service.models.model._RELOAD_FIRST_S", 0.01)
    client = serve(opener=gpu_opener(device), cache_dir=None)
    device.fail["run"] = OUT_OF_MEMORY
    assert client.post(POST, content=colored()).status_code == 503
    for size in (64, 32, 16):
        device.fail[f"capture {size}"] = OUT_OF_MEMORY
    del device.fail["run"]
    while client.get("/readyz").status_code != 200:
        pass
    assert the_model(client).max_batch <= 8
    assert top_label(client.post(POST, content=colored("green"))) == "green"


def test_a_given_size_that_does_not_fit_is_told_and_tried_again(loaded, device, monkeypatch):
    """Another process may leave the GPU its memory."""
    monkeypatch.setattr("service.models.model._RELOAD_FIRST_S", 0.01)
    device.fail["capture 4"] = OUT_OF_MEMORY
    model, _ = loaded(max_batch=4)
    assert model.state == "reloading"
    assert "out of memory" in model.reason
    device.fail.clear()
    wait_until(lambda: model.state == "ready")
    assert model.max_batch == 4


def test_the_next_start_knows_the_times_and_the_largest_batch(loaded, tmp_path, monkeypatch):
    named = replace(CUDA, device_name=lambda _: "a GPU")
    monkeypatch.setattr("service.engine.cuda.CudaEngine.provider", named)
    # Else a busy machine's times are not kept.
    monkeypatch.setattr("service.tuning.profile.is_steady", lambda _: True)
    cache = tmp_path / "cache"
    first, _ = loaded(cache_dir=cache)
    second, _ = loaded(FakeDevice(), cache_dir=cache)
    assert second.max_batch == first.max_batch
    assert second.latency_ms() == first.latency_ms()


@pytest.mark.parametrize(
    ("settings", "concurrencies", "staged"),
    [({}, 2, 2), ({"runners": 1}, 1, 1), ({"runners": 3}, 3, 3)],
)
def test_one_batch_is_computed_and_others_are_got_ready(
    model_folder, device, settings, concurrencies, staged
):
    opener = gpu_opener(device, batches=staged)
    values = {"models": model_folder, "cache_dir": None, "max_batch": 2} | settings
    repository = load_repository(Settings.model_validate(values), Metrics(), opener=opener)
    assert repository.parallelism.parallelism.runners == concurrencies
    assert repository._device.runners == 1, "admission counts on one"
    repository.close(10)


def test_a_gpu_that_is_lost_costs_all_that_wait_and_the_process(serve, device, model_folder):
    write_color_model(model_folder / "other.onnx", name="other")
    client = serve(opener=gpu_opener(device), max_batch=2, default_model="color")
    repository = client.app.state.runtime.repository
    ended = threading.Event()
    repository.on_device_lost = ended.set
    assert client.post(POST, content=colored()).status_code == 200
    device.fail["run"] = ILLEGAL_ACCESS
    response = client.post(POST, content=colored())
    assert (response.status_code, response.json()["code"]) == (503, "model_unavailable")
    assert ended.is_set()
    assert client.post(f"{POST}?model=other", content=colored()).status_code == 503
    live = client.get("/livez")
    assert live.status_code == 503
    assert any("CUDA failure 700" in reason for reason in live.json()["reasons"])


def test_a_failed_allocation_costs_the_batch_and_the_session_is_opened_anew(
    serve, device, monkeypatch
):
    monkeypatch.setattr("service.models.model._RELOAD_FIRST_S", 0.01)
    client = serve(opener=gpu_opener(device), max_batch=2)
    device.fail["run"] = OUT_OF_MEMORY
    response = client.post(POST, content=colored())
    assert (response.status_code, response.json()["code"]) == (503, "model_unavailable")
    assert client.get("/livez").status_code == 200
    device.fail.clear()
    while client.get("/readyz").status_code != 200:
        pass
    assert top_label(client.post(POST, content=colored("blue"))) == "blue"


def test_a_gpu_whose_thread_hangs_is_told(serve, device):
    client = serve(opener=gpu_opener(device), max_batch=2, stuck_after_s=50)
    go = threading.Event()
    begun = threading.Event()
    device.on_run.append(lambda _: begun.set() or go.wait(60))
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(client.post(POST, content=colored())))
    waiter.start()
    assert begun.wait(60)
    device.now += 100
    while "gpu 0: thread gpu-0 has been" not in str(client.get("/livez").json()["reasons"]):
        pass
    go.set()
    waiter.join()
    assert answers[0].status_code == 200
    while client.get("/livez").status_code != 200:
        pass


def test_a_failed_session_is_gone_before_the_next_is_opened(serve, device, monkeypatch):
    """There may not be memory for two."""
    monkeypatch.setattr("service.models.model._RELOAD_FIRST_S", 0.01)
    client = serve(opener=gpu_opener(device), max_batch=2)
    first, alive = weakref.ref(device.sessions.pop()), []
    open_session = device.open

    def opened(path, *, graphs):
        alive.append(first() is not None)
        return open_session(path, graphs=graphs)

    device.open = opened
    gc.disable()
    try:
        device.fail["run"] = OUT_OF_MEMORY
        assert client.post(POST, content=colored()).status_code == 503
        device.fail.clear()
        while client.get("/readyz").status_code != 200:
            pass
    finally:
        gc.enable()
    assert alive[-1] is False


# Where CUDA does not work


@pytest.mark.parametrize("code", [35, 100, 719])
def test_auto_serves_on_the_cpu_and_is_well_where_cuda_does_not_work(serve, device, code):
    """Nothing of the GPU may be watched then: it would never be live."""
    device.fail["open"] = f"CUDA failure {code}: it does not work ; GPU=0"
    with capture_logs() as logs:
        client = serve(opener=gpu_opener(device, "auto"), provider="auto")
    assert "serving_on_cpu" in [log["event"] for log in logs]
    assert top_label(client.post(POST, content=colored("red"))) == "red"
    for probe in ("/livez", "/readyz"):
        assert client.get(probe).status_code == 200
    assert health(client)["devices"] == []


@pytest.mark.parametrize("code", [35, 719])
def test_cuda_that_does_not_work_stops_the_start_where_it_was_asked_for(model_folder, device, code):
    device.fail["open"] = f"CUDA failure {code}: it does not work ; GPU=0"
    settings = Settings.model_validate({"models": model_folder, "provider": "cuda"})
    with pytest.raises(ProviderError, match="it does not work") as caught:
        load_repository(settings, Metrics(), opener=gpu_opener(device))
    assert len(str(caught.value).splitlines()) == 1


def test_a_gpu_lost_while_models_are_loaded_stops_the_start(model_folder, device):
    """Those that are there would never answer, also where any provider would do."""
    write_color_model(model_folder / "other.onnx", name="other")
    opened = device.open

    def open_session(path, *, graphs):
        if device.sessions:
            device.fail["open"] = ILLEGAL_ACCESS
        return opened(path, graphs=graphs)

    device.open = open_session
    settings = Settings.model_validate({"models": model_folder, "provider": "auto"})
    with pytest.raises(ProviderError, match="illegal memory access"):
        load_repository(settings, Metrics(), opener=gpu_opener(device, "auto"))
