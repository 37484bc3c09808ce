"""The routes of TorchServe, SageMaker, Vertex AI and KServe's V1, over real HTTP."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from color_model import color_contract, write_color_model
from images import colored

from service.contract import Label
from service.errors import SettingsError
from service.settings import load_settings

ALL = "0.0.0.0"  # noqa: S104 - where clouds look for their containers
HEALTH, PREDICT = "/v1/endpoints/7/health", "/v1/endpoints/7:predict"


def best(labels: dict[str, float]) -> str:
    return max(labels, key=lambda label: labels[label])


def test_ping_follows_readiness(client):
    """TorchServe's words, and SageMaker's status."""
    assert client.get("/ping").json() == {"status": "Healthy"}
    client.app.state.runtime.draining = True
    response = client.get("/ping")
    assert (response.status_code, response.json()["status"]) == (503, "Unhealthy")


@pytest.mark.parametrize("path", ["/predictions/color", "/predictions/color/1"])
def test_torchserve_gets_labels_and_their_probabilities(client, path):
    """Of a raw body, as `curl -T` sends it: as PUT, without a type. And of a form."""
    for answer in (
        client.post(path, content=colored("green")).json(),
        client.put(path, content=colored("green")).json(),
        client.post(path, files={"data": ("a.png", colored("green"))}).json(),
    ):
        assert best(answer) == "green"
        assert sum(answer.values()) == pytest.approx(1, abs=1e-5)
    several = [("data", ("a", colored("red"))), ("data", ("b", colored("blue")))]
    answers = client.post(path, files=several).json()
    assert [best(answer) for answer in answers] == ["red", "blue"]


def test_labels_that_are_called_the_same_are_told_apart(serve, tmp_path):
    labels = (Label(id="a", label="crane"), Label(id="b", label="crane"), Label(id="c", label="x"))
    write_color_model(tmp_path / "cranes" / "color.onnx", color_contract(labels=labels))
    answer = serve(models=tmp_path / "cranes").post("/predictions/color", content=colored("green"))
    assert answer.json().keys() == {"crane (a)", "crane (b)", "x"}


@pytest.mark.parametrize(
    ("path", "content", "code"),
    [
        ("/predictions/nope", colored(), "unknown_model"),
        ("/predictions/color/2", colored(), "unknown_model"),
        ("/predictions/color/x", colored(), "unknown_model"),
        ("/predictions/color", b"no image", "not_an_image"),
        ("/predictions/color", b"", "empty_body"),
        ("/invocations", b"no image", "not_an_image"),
        ("/invocations?topk=1", colored(), "invalid_parameter"),
    ],
)
def test_bad_input_is_refused_as_elsewhere(client, path, content, code):
    assert client.post(path, content=content).json()["code"] == code


def test_one_bad_file_of_several_is_named(client):
    files = [("data", ("a", colored("red"))), ("data", ("b", b"no image"))]
    response = client.post("/predictions/color", files=files)
    assert response.status_code == 415
    assert response.json()["detail"].startswith("image 1: ")


@pytest.mark.parametrize("content_type", ["application/x-image", "image/png"])
def test_sagemaker_gets_the_answer_of_classify(client, content_type):
    headers = {"Content-Type": content_type}
    answer = client.post("/invocations?top_k=1", content=colored("blue"), headers=headers).json()
    (result,) = answer["results"]
    assert [label["label"] for label in result["labels"]] == ["blue"]


def test_vertex_gets_predictions_at_the_routes_that_it_chose(serve):
    client = serve(vertex_health_route=HEALTH, vertex_predict_route=PREDICT)
    assert client.get(HEALTH).status_code == 200
    instances = [{"b64": base64.b64encode(colored(c)).decode()} for c in ("red", "blue")]
    body = {"instances": [instances[0] | {"key": "1"}, instances[1]], "parameters": {}}
    answer = client.post(PREDICT, json=body).json()
    found = [prediction["labels"][0]["label"] for prediction in answer["predictions"]]
    assert found == ["red", "blue"]


def test_routes_that_vertex_chose_win_over_the_services_own(serve):
    """So that its health check needs no key, as it has none."""
    keys = Path(__file__).parents[2] / "helpers" / "keys.txt"
    client = serve(
        vertex_health_route="/health", vertex_predict_route="/v1/classify", api_keys=keys
    )
    assert client.get("/health").json() == {"status": "Healthy"}
    body = {"instances": [{"b64": base64.b64encode(colored("red")).decode()}]}
    headers = {"authorization": "Bearer classify.secret"}
    answer = client.post("/v1/classify", json=body, headers=headers).json()
    assert answer["predictions"][0]["labels"][0]["label"] == "red"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "malformed_json"),
        ({"instances": []}, "no_images"),
        ({"instances": [{"data": ""}]}, "malformed_json"),
        ({"instances": [{"b64": "%"}]}, "invalid_base64"),
        ({"instances": [{"b64": ""}] * 40}, "too_many_images"),
    ],
)
def test_bad_instances_are_refused(serve, body, code):
    client = serve(vertex_predict_route=PREDICT)
    assert client.post(PREDICT, json=body).json()["code"] == code


def test_clients_of_kserves_v1_read_whether_a_model_is_ready(client):
    assert client.get("/v1/models/color").json()["ready"] is True


@pytest.mark.parametrize(
    ("given", "environ", "address"),
    [
        ({}, {}, ("127.0.0.1", 8000)),
        ({"sagemaker": True}, {}, (ALL, 8080)),
        ({}, {"SAGEMAKER_BIND_TO_PORT": "9000"}, (ALL, 9000)),
        ({"sagemaker": True, "port": "7000"}, {}, (ALL, 7000)),
        ({}, {"SAGEMAKER_BIND_TO_PORT": "9000", "RESNET_SERVE_HOST": "::1"}, ("::1", 9000)),
        ({"sagemaker": "false"}, {"SAGEMAKER_BIND_TO_PORT": "9000"}, ("127.0.0.1", 8000)),
        ({}, {"AIP_HTTP_PORT": "8085"}, (ALL, 8085)),
    ],
)  # fmt: skip
def test_a_clouds_variables_choose_the_address_unless_settings_do(given, environ, address):
    settings, _ = load_settings(given, environ)
    assert (settings.host, settings.port) == address


def test_vertexs_routes_come_from_its_variables():
    environ = {"AIP_HEALTH_ROUTE": HEALTH, "AIP_PREDICT_ROUTE": PREDICT}
    settings, _ = load_settings({}, environ)
    assert (settings.vertex_health_route, settings.vertex_predict_route) == (HEALTH, PREDICT)
    for bad in ("predict", "/a b", "/{name}"):
        with pytest.raises(SettingsError, match="vertex-predict-route"):
            load_settings({}, {"AIP_PREDICT_ROUTE": bad})
