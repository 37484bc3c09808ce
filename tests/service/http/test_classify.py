"""POST /v1/classify, over real HTTP with a real model."""

from __future__ import annotations

import base64

import pytest
from images import colored, top_label

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_raw_image_of_each_format_gets_its_label(client, image_format):
    """The content decides the format: the header only has to announce an image."""
    response = client.post(
        "/v1/classify",
        content=colored("blue", image_format=image_format),
        headers={"Content-Type": "image/jpeg"},
    )
    assert response.status_code == 200
    assert top_label(response) == "blue"


def test_an_answer_has_the_documented_shape(client):
    """Model, version, labels by falling probability, size and timings."""
    response = client.post("/v1/classify?top_k=2", content=colored("green", (30, 20)))
    body = response.json()
    assert body["model"] == "color"
    assert body["version"] == 1
    (result,) = body["results"]
    assert [label["label"] for label in result["labels"]] == ["green", "blue"]
    assert result["labels"][0] | {"probability": 0} == {
        "id": "c1", "label": "green", "index": 1, "probability": 0,
    }  # fmt: skip
    assert 0.9 < result["labels"][0]["probability"] < 1
    assert (result["width"], result["height"]) == (30, 20)
    assert set(body["timings_ms"]) == {"receive", "decode", "queue", "infer", "total"}
    assert response.headers["server-timing"].startswith("receive;dur=")


def test_without_top_k_a_model_of_few_classes_gives_them_all(client):
    """The default of five is no error for a model that has three."""
    response = client.post("/v1/classify", content=colored())
    assert len(response.json()["results"][0]["labels"]) == 3


def test_a_form_of_files_gets_results_in_order(client):
    """The field is `files`, and any other name will do."""
    files = [("files", ("a", colored(c))) for c in ("red", "green", "blue")]
    files.append(("other", ("b", colored("red"))))
    response = client.post("/v1/classify", files=files)
    labels = [result["labels"][0]["label"] for result in response.json()["results"]]
    assert labels == ["red", "green", "blue", "red"]


def test_results_of_a_form_carry_their_files_names(client):
    """Labels and errors alike; no other form of a body has names."""
    image = colored("red")
    files = [("f", ("rot.png", image)), ("f", ("猫.txt", b"no image"))]
    response = client.post("/v1/classify", files=files)
    first, second = response.json()["results"]
    assert (first["name"], second["name"]) == ("rot.png", "猫.txt")
    assert "labels" in first
    assert "error" in second
    (alone,) = client.post("/v1/classify", files=files[:1]).json()["results"]
    assert alone["name"] == "rot.png"
    (raw,) = client.post("/v1/classify", content=image).json()["results"]
    assert "name" not in raw


def test_json_with_base64_gets_results_in_order(client):
    """`{"images": [{"data": "<base64>"}]}`."""
    images = [{"data": base64.b64encode(colored(c)).decode()} for c in ("blue", "red")]
    response = client.post("/v1/classify", json={"images": images})
    labels = [result["labels"][0]["label"] for result in response.json()["results"]]
    assert labels == ["blue", "red"]


def test_one_bad_image_does_not_fail_its_neighbours(client):
    """Several images: 200, with a result or an error each."""
    images = [
        {"data": base64.b64encode(colored("red")).decode()},
        {"data": "%%%"},
        {"data": ""},
        {"data": base64.b64encode(b"no image").decode()},
    ]
    response = client.post("/v1/classify", json={"images": images})
    assert response.status_code == 200
    results = response.json()["results"]
    assert results[0]["labels"][0]["label"] == "red"
    assert [result["error"]["code"] for result in results[1:]] == [
        "invalid_base64", "empty_image", "not_an_image",
    ]  # fmt: skip


def test_when_all_of_several_fail_the_answer_is_422_with_each_error(client):
    response = client.post("/v1/classify", files=[("f", ("a", b"x")), ("f", ("b", b""))])
    assert response.status_code == 422
    problem = response.json()
    assert problem["code"] == "all_images_failed"
    assert [r["error"]["code"] for r in problem["results"]] == ["not_an_image", "empty_image"]
    assert [r["name"] for r in problem["results"]] == ["a", "b"]


def test_a_single_images_error_is_the_status_of_the_answer(client):
    """In any form of body."""
    data = base64.b64encode(b"no image").decode()
    for response in (
        client.post("/v1/classify", content=b"no image"),
        client.post("/v1/classify", files={"files": b"no image"}),
        client.post("/v1/classify", json={"images": [{"data": data}]}),
    ):
        assert response.status_code == 415
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "not_an_image"
