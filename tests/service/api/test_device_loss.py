"""A model whose device is lost: told, loaded again, and used again."""

from __future__ import annotations

import pytest
from images import colored, top_label

from service.errors import DeviceLostError, ProviderError

POST = "/v1/classify"


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Reload without the waits of the real back-off."""
    monkeypatch.setattr("service.served._RELOAD_FIRST_S", 0.01)
    monkeypatch.setattr("service.served._RELOAD_MOST_S", 0.02)


def lose_device(model) -> None:
    def run(images):
        raise DeviceLostError("CUDA failure 700: an illegal memory access was encountered")

    model.engine.run = run


def wait_until_ready(client) -> None:
    while client.get("/readyz").status_code != 200:
        pass


def test_a_lost_device_is_told_and_the_model_comes_back_by_itself(serve):
    client = serve()
    (model,) = client.app.state.service.repository
    lost = model.engine
    lose_device(model)
    response = client.post(POST, content=colored())
    assert (response.status_code, response.json()["code"]) == (503, "model_unavailable")
    assert "retry-after" in response.headers
    wait_until_ready(client)
    assert model.engine is not lost
    assert top_label(client.post(POST, content=colored("green"))) == "green"


def test_while_it_is_loaded_again_readiness_goes_and_if_that_fails_liveness_too(serve):
    """Where a new session can not help, a new process may; if one helps after all, it is well."""
    client = serve()
    (model,) = client.app.state.service.repository
    broken, open_engine = True, model._open_engine

    def try_to_open():
        if broken:
            raise ProviderError("no CUDA-capable device is detected")
        return open_engine()

    model._open_engine = try_to_open
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
