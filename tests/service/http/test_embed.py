"""POST /v1/embed, over real HTTP with a real model, whose embedding is the mean colour."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from color_model import write_color_model
from images import COLOR_VALUES, colored

RAW = {"Accept": "application/octet-stream"}
FILES = [("files", (f"{color}.png", colored(color))) for color in ("red", "green")]


@pytest.fixture
def client(serve, model_folder):
    write_color_model(model_folder / "color.onnx", extra_outputs=True)
    return serve()


def raw(response) -> np.ndarray:
    assert response.headers["content-type"] == "application/octet-stream"
    shape = [int(side) for side in response.headers["x-shape"].split(",")]
    return np.frombuffer(response.content, "<f4").reshape(shape)


def test_an_image_gets_its_embedding(client):
    response = client.post("/v1/embed", content=colored("green", (30, 20)))
    body = response.json()
    assert (response.status_code, body["model"], body["version"]) == (200, "color", 1)
    (result,) = body["results"]
    assert result == {"embedding": list(COLOR_VALUES["green"]), "width": 30, "height": 20}
    assert set(body["timings_ms"]) == {"receive", "decode", "queue", "infer", "total"}


def test_every_kind_of_body_is_accepted(client):
    data = base64.b64encode(colored("blue")).decode()
    for response in (
        client.post("/v1/embed", files={"files": colored("blue")}),
        client.post("/v1/embed", json={"images": [{"data": data}]}),
    ):
        assert response.json()["results"][0]["embedding"] == list(COLOR_VALUES["blue"])


def test_raw_answers_have_the_same_numbers_and_tell_their_shape(client):
    one = raw(client.post("/v1/embed", content=colored("red"), headers=RAW))
    two = raw(client.post("/v1/embed", files=FILES, headers=RAW))
    assert one.tolist() == [list(COLOR_VALUES["red"])]
    assert two.tolist() == [list(COLOR_VALUES["red"]), list(COLOR_VALUES["green"])]


def test_of_several_images_in_json_each_has_its_embedding_or_its_error(client):
    response = client.post("/v1/embed", files=[*FILES, ("files", ("notes.txt", b"text"))])
    assert response.status_code == 200
    red, _, text = response.json()["results"]
    assert red["name"] == "red.png"
    assert text["error"]["code"] == "not_an_image"


def test_one_bad_image_fails_a_raw_answer_which_says_which_it_is(client):
    """There is no place for an error between numbers."""
    response = client.post("/v1/embed", files=[*FILES, ("f", ("n.txt", b"text"))], headers=RAW)
    assert (response.status_code, response.json()["code"]) == (415, "not_an_image")
    assert response.json()["detail"].startswith("image 3 of 3: the content is not")


@pytest.mark.parametrize("headers", [{}, RAW])
def test_a_single_images_error_is_the_answer(client, headers):
    response = client.post("/v1/embed", content=b"text", headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "not_an_image")
    assert response.json()["detail"].startswith("the content is not")


def test_when_all_of_several_fail_each_error_is_in_the_answer(client):
    response = client.post("/v1/embed", files=[("f", ("a", b"x")), ("f", ("b", b""))])
    assert (response.status_code, response.json()["code"]) == (422, "all_images_failed")
    assert [each["error"]["code"] for each in response.json()["results"]] == [
        "not_an_image", "empty_image",
    ]  # fmt: skip


def test_a_file_without_an_embedding_is_refused_with_the_reason_before_the_body_is_read(serve):
    """Which would be refused too."""
    response = serve().post("/v1/embed", content=b"")
    assert (response.status_code, response.json()["code"]) == (422, "missing_output")
    assert "model color has no output embedding" in response.json()["detail"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("?top_k=1", "invalid_parameter"),
        ("?model=nope", "unknown_model"),
        ("?version=x", "invalid_parameter"),
    ],
)
def test_a_bad_query_is_refused(client, query, code):
    assert client.post(f"/v1/embed{query}", content=colored()).json()["code"] == code


def test_an_answer_that_a_client_does_not_take_is_refused_before_inference(client):
    response = client.post("/v1/embed", content=colored(), headers={"Accept": "text/html"})
    assert (response.status_code, response.json()["code"]) == (406, "not_acceptable")
    assert 'images_total{model="color"' not in client.get("/metrics").text


def test_embeddings_that_are_not_finite_are_an_error_and_not_invalid_json(client):
    (model,) = client.app.state.runtime.repository
    run = model.engine.run

    def overflowing(pixels, outputs):
        return {name: np.full_like(rows, np.inf) for name, rows in run(pixels, outputs).items()}

    model.engine.run = overflowing
    for headers in ({}, RAW):
        response = client.post("/v1/embed", content=colored(), headers=headers)
        assert (response.status_code, response.json()["code"]) == (500, "inference_failed")
