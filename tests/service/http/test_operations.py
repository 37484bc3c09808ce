"""Health, probes, metrics, models and the API's description."""

from __future__ import annotations

import pytest
from color_model import color_contract, write_color_model
from images import colored
from prometheus_client.parser import text_string_to_metric_families
from wire import connect

from service import __version__
from service.contract import GoldenPattern
from service.models.state import StateMachine


def samples(client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
    }


def value(found, name: str, **labels: str) -> float:
    return found[(name, tuple(sorted(labels.items())))]


def test_health_tells_state_models_providers_and_queues(client):
    body = client.get("/health").json()
    assert body["state"] == "ready"
    assert body["version"] == __version__
    assert body["uptime_s"] >= 0
    assert body["parallelism"].keys() == {
        "runners", "intra_op_threads", "goal", "source", "why", "candidates",
    }  # fmt: skip
    latency_ms = body["models"][0].pop("latency_ms")
    assert list(latency_ms) == ["1", "2", "4", "8"]
    assert all(ms > 0 for ms in latency_ms.values())
    assert body["models"] == [
        {
            "name": "color", "version": 1, "state": "ready", "reason": "", "provider": "cpu",
            "computed_in": "fp32", "agreement": None, "faster_by": None,
            "engine": {}, "max_batch": 8,
            "queue": {"images": 0, "limit": 256},
        }
    ]  # fmt: skip


def test_health_tells_the_layout_and_what_it_was_chosen_by(serve, monkeypatch):
    monkeypatch.setattr("service.tuning.autotune.cpu_count", lambda: 2)
    parallelism = (
        serve(optimize_for="latency", runners=0, intra_op_threads=0)
        .get("/health")
        .json()["parallelism"]
    )
    tried = [(row["runners"], row["intra_op_threads"]) for row in parallelism["candidates"]]
    assert tried == [(2, 1), (1, 2)]
    assert (parallelism["runners"], parallelism["intra_op_threads"]) in tried
    assert (parallelism["goal"], parallelism["source"]) == ("latency", "measured")
    for row in parallelism["candidates"]:
        assert row["images_per_s"] > 0
        assert row["lone_image_ms"] > 0


def test_health_tells_a_layout_that_was_given(serve):
    parallelism = serve(runners=2, intra_op_threads=3).get("/health").json()["parallelism"]
    assert parallelism == {
        "runners": 2, "intra_op_threads": 3, "goal": "throughput", "source": "settings",
        "why": "set by --runners and --intra-op-threads", "candidates": [],
    }  # fmt: skip


def write_wrong_model(path) -> None:
    """A model that does not answer as it did where it was exported."""
    wrong = (GoldenPattern(seed=1, probabilities=(1.0, 0.0, 0.0)),)
    write_color_model(path, color_contract(golden=wrong))


def write_cut_model(path) -> None:
    write_color_model(path)
    path.write_bytes(path.read_bytes()[:200])


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_wrong_model, "golden pattern 1 differs"),
        (write_cut_model, "ONNX Runtime can't load it"),
    ],
)
def test_a_broken_model_is_told_everywhere_while_the_others_serve(
    serve, model_folder, write, reason
):
    write(model_folder / "wrong.onnx")
    client = serve(default_model="color")
    assert client.get("/readyz").json() == {"ok": True, "reasons": []}
    assert client.get("/livez").status_code == 200
    health = client.get("/health")
    assert (health.status_code, health.json()["state"]) == (200, "ready")
    for body in (health.json(), client.get("/v1/models").json()):
        (broken,) = body["broken"]
        assert (broken["name"], broken["version"]) == ("wrong", 1)
        assert reason in broken["reason"]
    for refused in (
        client.post("/v1/classify?model=wrong", content=colored()),
        client.post("/v1/classify?model=wrong&version=1", content=colored()),
        client.get("/v1/models/wrong"),
    ):
        assert (refused.status_code, refused.json()["code"]) == (503, "model_broken")
        assert reason in refused.json()["detail"]
    assert client.get("/v1/models/wrong?version=2").status_code == 404
    assert client.post("/v1/classify", content=colored()).status_code == 200
    found = samples(client)
    for model, broken in (("wrong", 1), ("color", 0)):
        labels = {"model": model, "version": "1"}
        assert value(found, "resnet_serve_model_broken", **labels) == broken
        assert value(found, "resnet_serve_model_ready", **labels) == 1 - broken


@pytest.mark.parametrize("settings", [{"default_model": "wrong"}, {"strict_models": True}])
def test_a_default_model_that_disagrees_is_not_ready_and_so_is_any_of_a_strict_start(
    serve, model_folder, settings
):
    write_wrong_model(model_folder / "wrong.onnx")
    client = serve(**settings)
    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert "golden pattern 1 differs" in ready.json()["reasons"][0]
    assert client.get("/livez").status_code == 200
    health = client.get("/health")
    assert (health.status_code, health.json()["state"]) == (503, "failed")
    assert client.post("/v1/classify?model=color", content=colored()).status_code == 200


def test_a_model_is_not_ready_while_it_warms_up(serve):
    client = serve()
    (model,) = client.app.state.runtime.repository
    model.machine = StateMachine()
    assert client.get("/readyz").json() == {"ok": False, "reasons": ["color: warming up"]}
    assert client.get("/health").json()["state"] == "starting"
    response = client.post("/v1/classify", content=colored())
    assert (response.status_code, response.json()["code"]) == (503, "model_not_ready")
    assert response.headers["retry-after"]


def test_draining_fails_readiness_and_still_serves(serve):
    client = serve()
    client.app.state.runtime.draining = True
    assert client.get("/readyz").json()["reasons"] == ["draining"]
    assert client.get("/livez").status_code == 200
    response = client.post("/v1/classify", content=colored())
    assert response.status_code == 200
    assert response.headers["connection"] == "close", "the next request should go elsewhere"


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/metrics"])
def test_a_probe_answers_head_and_says_so(client, path):
    assert client.head(path).status_code == 200
    refused = client.delete(path)
    assert refused.status_code == 405
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_liveness_fails_when_the_runner_is_dead(serve):
    client = serve(runners=1, decode_threads=1)
    (model,) = client.app.state.runtime.repository

    def die(pixels, outputs):
        raise SystemExit

    model.engine.run = die
    response = client.post("/v1/classify", content=colored())
    assert (response.status_code, response.json()["code"]) == (503, "model_unavailable")
    live = client.get("/livez")
    assert live.status_code == 503
    assert live.json()["reasons"] == ["color: 1 of 1 runners are dead"]
    assert client.get("/readyz").status_code == 503
    again = client.post("/v1/classify", content=colored())
    assert (again.status_code, again.json()["code"]) == (503, "model_unavailable")


def test_metrics_count_requests_images_and_batches(client):
    """By route template and status; an unknown path adds no label of its own."""
    client.post("/v1/classify", content=colored())
    client.post("/v1/classify", files=[("f", ("a", colored())), ("f", ("b", b"bad"))])
    client.post("/v1/classify?model=nope", content=colored())
    client.get("/some/unknown/path")
    client.get("/v1/models/color")
    found = samples(client)
    route = {"route": "/v1/classify", "method": "POST"}
    assert value(found, "resnet_serve_requests_total", **route, status="200") == 2
    assert value(found, "resnet_serve_requests_total", **route, status="404") == 1
    unmatched = {"route": "unmatched", "method": "GET", "status": "404"}
    assert value(found, "resnet_serve_requests_total", **unmatched) == 1
    detail = {"route": "/v1/models/{name}", "method": "GET", "status": "200"}
    assert value(found, "resnet_serve_requests_total", **detail) == 1
    model = {"model": "color", "version": "1"}
    assert value(found, "resnet_serve_images_total", **model, outcome="ok") == 2
    assert value(found, "resnet_serve_images_total", **model, outcome="not_an_image") == 1
    assert value(found, "resnet_serve_batch_size_sum", **model) == 2
    assert value(found, "resnet_serve_queue_duration_seconds_count", **model) == 2
    assert value(found, "resnet_serve_inference_duration_seconds_count", **model) == 2
    assert value(found, "resnet_serve_decode_duration_seconds_count") == 2
    assert value(found, "resnet_serve_rejected_total", reason="unknown_model") == 1
    assert value(found, "resnet_serve_queue_length", **model) == 0
    assert value(found, "resnet_serve_requests_in_flight") == 1, "the scrape itself"
    assert value(found, "resnet_serve_inflight_bytes") == 0
    assert value(found, "resnet_serve_model_ready", **model) == 1
    info = model | {
        "architecture": "mean-color", "precision": "fp32", "provider": "cpu", "computed_in": "fp32",
    }  # fmt: skip
    assert value(found, "resnet_serve_model_agreement", **model) == 1
    assert value(found, "resnet_serve_model_info", **info) == 1
    assert value(found, "resnet_serve_build_info", version=__version__) == 1
    assert value(found, "process_resident_memory_bytes") > 0


@pytest.mark.parametrize("name", ["request", "decode", "queue", "inference"])
def test_durations_are_histograms_from_half_a_millisecond(client, name):
    client.post("/v1/classify", content=colored())
    bounds = [
        float(dict(labels)["le"])
        for metric, labels in samples(client)
        if metric == f"resnet_serve_{name}_duration_seconds_bucket"
    ]
    assert min(bounds) == 0.0005


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/metrics"])
def test_probes_answer_head_too(client, path):
    response = client.head(path)
    assert (response.status_code, response.content) == (200, b"")


def test_models_are_listed_and_described(client):
    (summary,) = client.get("/v1/models").json()["models"]
    assert summary["name"] == "color"
    assert summary["default"] is True
    assert summary["classes"] == 3
    assert summary["input_size"] == 8
    detail = client.get("/v1/models/color").json()
    assert [label["label"] for label in detail["labels"]] == ["red", "green", "blue"]
    assert detail["preprocessing"]["interpolation"] == "bilinear"
    assert client.get("/v1/models/nope").json()["code"] == "unknown_model"


@pytest.mark.parametrize("root_path", [None, "/images"])
def test_the_server_as_a_whole_can_be_asked_for_its_methods(serve, root_path):
    """As some load balancers' probes do, and the connection goes on."""
    client = serve(root_path=root_path)
    with connect(client.base_url) as connection:
        for _ in range(2):
            connection.sendall(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 204 ")
            assert b"\r\nallow: GET, POST, PUT, DELETE, OPTIONS\r\n" in answer
            assert b"content-length" not in answer.lower()
    found = samples(client)
    labels = {"route": "*", "method": "OPTIONS", "status": "204"}
    assert value(found, "resnet_serve_requests_total", **labels) == 2
