"""The API's description: complete, true, and readable."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from color_model import write_color_model
from images import colored
from wire import connect, head, read_answer

from service.http import examples
from service.preprocess import heic
from service.settings import MAX_TIMEOUT_MS


def operations(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in spec["paths"].items():
        for operation in methods.values():
            yield path, operation


def shape(value: object) -> object:
    """Names and types of all that is in an answer; of a list, of its first item."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        return [shape(item) for item in value[:1]]
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)


def test_the_api_describes_its_bodies_and_problems(client):
    """OpenAPI has every accepted form of body, and the problem schema for every error."""
    spec = client.get("/openapi.json").json()
    operation = spec["paths"]["/v1/classify"]["post"]
    assert set(operation["requestBody"]["content"]) == {
        "image/*", "application/octet-stream", "multipart/form-data", "application/json",
    }  # fmt: skip
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "top_k", "model", "version", "X-Request-Timeout-Ms", "X-Request-Priority", "X-Request-Id",
    }  # fmt: skip
    problem = operation["responses"]["503"]["content"]["application/problem+json"]["schema"]
    assert problem == {"$ref": "#/components/schemas/Problem"}
    assert "422" in operation["responses"]
    assert "HTTPValidationError" not in json.dumps(spec)


def test_the_apis_description_resolves_and_its_page_needs_no_other_host(client):
    """A broken reference makes the page unusable, and a cluster may have no way to a CDN."""
    text = client.get("/openapi.json").text
    schemas = json.loads(text)["components"]["schemas"]
    references = set(re.findall(r'"\$ref":\s*"([^"]+)"', text))
    assert references == {f"#/components/schemas/{name}" for name in schemas} & references
    page = client.get("/docs").text
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    assert all(link.startswith("/") and client.get(link).status_code == 200 for link in links)
    assert client.get("/docs").status_code == 200


def test_each_operation_has_a_tag_a_title_and_a_short_name(client):
    spec = client.get("/openapi.json").json()
    described = {tag["name"] for tag in spec["tags"]}
    for path, operation in operations(spec):
        assert set(operation["tags"]) <= described, path
        assert operation["tags"], path
        assert operation["summary"], path
        assert re.fullmatch(r"[a-z]+", operation["operationId"]), path
    summaries = [operation["summary"] for _, operation in operations(spec)]
    assert len(set(summaries)) == len(summaries)


def test_each_good_answer_and_each_problem_has_an_example(client):
    for path, operation in operations(client.get("/openapi.json").json()):
        for status, answer in operation["responses"].items():
            for media_type, content in answer["content"].items():
                if media_type == "application/problem+json":
                    assert content["example"]["status"] == int(status), (path, status)
                elif status == "200" and content.get("schema", {}).get("format") != "binary":
                    assert content["example"], path


def test_limits_of_the_description_are_those_of_this_service(serve):
    """Three classes, and `max_images` as it is set."""
    spec = serve(max_images=7).get("/openapi.json").json()
    operation = spec["paths"]["/v1/classify"]["post"]
    parameters = {parameter["name"]: parameter["schema"] for parameter in operation["parameters"]}
    assert (parameters["top_k"]["minimum"], parameters["top_k"]["maximum"]) == (1, 3)
    assert parameters["version"]["maximum"] == 999_999_999
    assert parameters["model"]["minLength"] == 1
    assert all(isinstance(schema["type"], str) for schema in parameters.values())
    images = spec["components"]["schemas"]["JsonImages"]["properties"]["images"]
    assert (images["minItems"], images["maxItems"]) == (1, 7)
    assert spec["components"]["schemas"]["JsonImage"]["properties"]["data"]["minLength"] == 1
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    files = form["properties"]["files"]
    assert (files["minItems"], files["maxItems"]) == (1, 7)


@pytest.mark.parametrize(
    "value", ["1", "9", "2000", "9999999", "10000000", "86399999", str(MAX_TIMEOUT_MS),
              "0", "-1", "1.5", "", "86400001", "99999999", "100000000"],
)  # fmt: skip
def test_a_timeout_is_as_documented_or_refused(client, value):
    operation = client.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]
    (timeout,) = (p for p in operation["parameters"] if p["name"] == "X-Request-Timeout-Ms")
    headers = {"X-Request-Timeout-Ms": value}
    response = client.post("/v1/classify", content=colored(), headers=headers)
    refused = response.json().get("code") == "invalid_timeout"
    assert refused != bool(re.search(timeout["schema"]["pattern"], value))


def test_an_empty_model_name_is_refused(client):
    """As documented, and not taken for the default model."""
    response = client.post("/v1/classify?model=", content=colored())
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize(
    ("path", "example"),
    [
        ("/health", examples.HEALTH),
        ("/livez", examples.PROBE),
        ("/readyz", examples.PROBE),
        ("/v1/models", examples.MODELS),
        ("/v1/models/slim-resnet50", examples.MODEL_DETAIL),
    ],
)
def test_examples_have_the_form_of_real_answers(serve, path, example):
    """Of the built-in model, as where they were taken."""
    answer = serve(models=None, runners=0, intra_op_threads=0).get(path).json()
    if path == "/health":
        answer["models"][0]["latency_ms"] = example["models"][0]["latency_ms"]
    assert shape(answer) == shape(example)


def test_the_examples_of_models_are_the_built_in_ones(serve):
    """Its accuracy, too: to be taken anew when it is trained anew."""
    client = serve(models=None)
    assert client.get("/v1/models").json() == examples.MODELS
    detail = client.get("/v1/models/slim-resnet50").json()
    assert detail | {"labels": detail["labels"][:2]} == examples.MODEL_DETAIL


def test_the_example_of_json_is_answered(client):
    """With an image that can be decoded."""
    response = client.post("/v1/classify", json=examples.JSON_IMAGES)
    assert response.status_code == 200
    assert base64.b64decode(examples.JSON_IMAGES["images"][0]["data"]).startswith(b"\x89PNG")


def test_the_example_of_a_classification_has_the_form_of_a_real_answer(client, monkeypatch):
    monkeypatch.setattr(heic, "is_installed", lambda: False)
    files = [("files", ("cat.jpg", colored())), ("files", ("notes.txt", b"no image"))]
    answer = client.post("/v1/classify?top_k=1", files=files).json()
    for real, example in zip(answer["results"], examples.CLASSIFICATION["results"], strict=True):
        assert shape(real) == shape(example)
    assert answer["results"][1] == examples.CLASSIFICATION["results"][1]
    assert shape(answer["timings_ms"]) == shape(examples.CLASSIFICATION["timings_ms"])


def test_the_examples_of_features_have_the_form_of_real_answers(serve, model_folder, monkeypatch):
    monkeypatch.setattr(heic, "is_installed", lambda: False)
    write_color_model(model_folder / "color.onnx", extra_outputs=True)
    client = serve()
    files = [("files", ("cat.jpg", colored())), ("files", ("notes.txt", b"no image"))]
    embeddings = client.post("/v1/embed", files=files).json()
    assert shape(embeddings) == shape(examples.EMBEDDINGS)
    assert embeddings["results"][1] == examples.EMBEDDINGS["results"][1]
    headers = {"Accept": "application/json"}
    activation = client.post("/v1/explain", content=colored(), headers=headers).json()
    assert shape(activation) == shape(examples.ACTIVATION)


def test_the_example_of_a_summary_has_the_form_of_a_real_answer(client):
    client.post("/v1/classify", content=colored())
    answer = client.get("/v1/summary").json()
    answer["batch_sizes"] = examples.SUMMARY["batch_sizes"]
    answer["requests"]["by_status"] = examples.SUMMARY["requests"]["by_status"]
    assert shape(answer) == shape(examples.SUMMARY)


def test_the_examples_of_problems_are_real_answers(serve, monkeypatch):
    """Of each status that a client can bring about alone."""
    monkeypatch.setattr(heic, "is_installed", lambda: False)
    client = serve(models=None)
    cut = colored("red", (64, 64), image_format="PNG")[:-30]
    got = [
        client.post("/v1/classify?top_k=1&topk=2", content=b"x").json(),
        client.post("/v1/classify?model=nope", content=b"x").json(),
        client.post("/v1/classify", content=b"no image").json(),
        client.post("/v1/classify", content=cut).json(),
    ]
    with connect(client.base_url) as connection:
        connection.sendall(head(Content_Length=33_554_433))
        got.append(json.loads(read_answer(connection)[1]))
    for problem in got:
        example = examples.PROBLEMS[problem["status"]]
        assert problem | {"request_id": ""} == example | {"request_id": ""}
