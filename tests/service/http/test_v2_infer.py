"""POST /v2/models/NAME/infer, over real HTTP with a real model."""

from __future__ import annotations

import gzip
import json
import struct
import zlib

import jsonschema
import numpy as np
import pytest
from color_model import write_color_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from images import colored
from open_inference import (
    ERROR,
    INFERENCE_RESPONSE,
    image_request,
    json_request,
    pixels_of,
)

INFER = "/v2/models/color/infer"
LENGTH = "Inference-Header-Content-Length"


def binary(request: dict, *blobs: bytes) -> tuple[bytes, dict[str, str]]:
    """Return a body of JSON and binary data, and its header."""
    text = json.dumps(request).encode()
    return b"".join([text, *blobs]), {LENGTH: str(len(text))}


def binary_request(pixels: np.ndarray, **members: object) -> tuple[bytes, dict[str, str]]:
    request = json_request(pixels, **members)
    del request["inputs"][0]["data"]
    request["inputs"][0]["parameters"] = {"binary_data_size": pixels.nbytes}
    return binary(request, pixels.tobytes())


def refused(response, status: int, code: str) -> str:
    """Check that an answer is an error as Triton's clients and ours read it; return its text."""
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    jsonschema.validate(problem, ERROR)
    assert problem["error"] == problem["detail"]
    return str(problem["error"])


def test_pixels_in_json_get_their_probabilities(client):
    response = client.post(INFER, json=json_request(pixels_of("green", "blue"), id="7"))
    answer = response.json()
    jsonschema.validate(answer, INFERENCE_RESPONSE)
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("color", "1", "7")
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == (
        "probabilities", "FP32", [2, 3],
    )  # fmt: skip
    assert np.reshape(output["data"], (2, 3)).argmax(axis=1).tolist() == [1, 2]


@pytest.mark.parametrize("path", ["/v2/models/color/versions/1/infer", INFER])
def test_pixels_in_binary_get_the_same(client, path):
    body, headers = binary_request(pixels_of("green", "blue"))
    found = client.post(path, content=body, headers=headers).json()
    assert found == client.post(INFER, json=json_request(pixels_of("green", "blue"))).json()


@pytest.mark.parametrize("color", ["red", "green", "blue"])
def test_the_answer_is_that_of_classify(client, color):
    """After rounding to six decimals, for an encoded image."""
    image = colored(color)
    (output,) = client.post(INFER, json=image_request(image)).json()["outputs"]
    (result,) = client.post("/v1/classify", content=image).json()["results"]
    for label in result["labels"]:
        assert round(output["data"][label["index"]], 6) == label["probability"]


def test_an_encoded_image_in_binary_is_a_length_and_its_bytes(client):
    image = colored("blue")
    request = image_request(image)
    del request["inputs"][0]["data"]
    size = 4 + len(image)
    request["inputs"][0]["parameters"] = {"binary_data_size": size}
    body, headers = binary(request, struct.pack("<I", len(image)) + image)
    (output,) = client.post(INFER, content=body, headers=headers).json()["outputs"]
    assert np.argmax(output["data"]) == 2


def test_a_raw_request_is_one_image_and_its_answer_binary(client):
    response = client.post(INFER, content=pixels_of("green").tobytes(), headers={LENGTH: "0"})
    length = int(response.headers[LENGTH])
    (output,) = json.loads(response.content[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 12}
    assert np.frombuffer(response.content[length:], "<f4").argmax() == 1


@pytest.mark.parametrize(
    ("default", "own", "expected"),
    [(None, None, False), (True, None, True), (False, None, False), (None, True, True),
     (True, False, False), (False, True, True)],
)  # fmt: skip
def test_an_outputs_own_wish_for_binary_data_wins(client, default, own, expected):
    request = json_request(pixels_of("red"), outputs=[{"name": "probabilities"}])
    if default is not None:
        request["parameters"] = {"binary_data_output": default}
    if own is not None:
        request["outputs"][0]["parameters"] = {"binary_data": own}
    assert (LENGTH in client.post(INFER, json=request).headers) is expected


def test_binary_output_is_for_outputs_that_are_not_named_too(client):
    request = json_request(pixels_of("red"), parameters={"binary_data_output": True})
    assert LENGTH in client.post(INFER, json=request).headers


def test_classification_gives_the_most_probable_classes(client):
    """As value:index:label; more than there are gives all."""
    for asked, given_ in ((1, 1), (2, 2), (1000, 3)):
        output = {"name": "probabilities", "parameters": {"classification": asked}}
        request = json_request(pixels_of("green"), outputs=[output])
        (output,) = client.post(INFER, json=request).json()["outputs"]
        assert (output["datatype"], output["shape"]) == ("BYTES", [1, given_])
        value, index, label = output["data"][0].split(":")
        assert (index, label) == ("1", "green")
        assert 0.9 < float(value) < 1


def test_other_outputs_are_answered_when_they_are_named(serve, tmp_path):
    """In the order in which they are named, though the metadata does not list them."""
    write_color_model(tmp_path / "more" / "color.onnx", extra_outputs=True)
    client = serve(models=tmp_path / "more")
    names = ["features", "classifier_weight", "probabilities", "embedding"]
    request = json_request(pixels_of("red", "blue"), outputs=[{"name": name} for name in names])
    outputs = client.post(INFER, json=request).json()["outputs"]
    assert [output["name"] for output in outputs] == names
    assert [output["shape"] for output in outputs] == [[2, 3, 8, 8], [3, 3], [2, 3], [2, 3]]
    assert outputs[3]["data"] == pytest.approx([220, 30, 20, 10, 40, 230])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_compressed_request_is_read(client, coding):
    """The header's length is that of the JSON before it was compressed."""
    body, headers = binary_request(pixels_of("green"))
    packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    headers["Content-Encoding"] = coding
    answer = client.post(INFER, content=packed, headers=headers).json()
    assert np.argmax(answer["outputs"][0]["data"]) == 1


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_large_answer_is_compressed_if_the_client_takes_it(serve, tmp_path, coding):
    write_color_model(tmp_path / "more" / "color.onnx", extra_outputs=True)
    client = serve(models=tmp_path / "more")
    request = json_request(pixels_of("red", "blue"), outputs=[{"name": "features"}])
    request["parameters"] = {"binary_data_output": True}
    plain = client.post(INFER, json=request, headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    packed = client.post(INFER, json=request, headers={"Accept-Encoding": f"br, {coding}"})
    assert packed.headers["content-encoding"] == coding
    assert int(packed.headers["content-length"]) < len(plain.content)
    assert packed.content == plain.content
    assert packed.headers[LENGTH] == plain.headers[LENGTH]


def test_errors_and_metadata_are_never_compressed(client):
    """Triton's asynchronous client accepts compression and does not undo it."""
    headers = {"Accept-Encoding": "gzip, deflate, br"}
    for response in (
        client.get("/v2/models/color/config", headers=headers),
        client.post(INFER, json={"inputs": [{"name": "x" * 3000}]}, headers=headers),
    ):
        assert "content-encoding" not in response.headers


def test_a_body_that_decompresses_to_too_much_is_refused_before_it_is_held(serve):
    client = serve(max_body_bytes=100_000)
    bomb = gzip.compress(bytes(50_000_000))
    response = client.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"})
    assert "once decompressed" in refused(response, 413, "body_too_large")
    assert client.app.state.runtime.body_bytes.held == 0


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"no gzip", "gzip"),
        (gzip.compress(b"{}" * 50, mtime=0)[:-9], "gzip"),
        (gzip.compress(b"{}", mtime=0) + b"more", "gzip"),
        (b"{}", "br"),
        (b"{}", "gzip, gzip"),
    ],
)
def test_a_coding_that_is_unknown_or_damaged_is_refused(client, body, coding):
    response = client.post(INFER, content=body, headers={"Content-Encoding": coding})
    refused(response, 415, "unsupported_content_encoding")


GOOD = json_request(pixels_of("red"))
TENSOR = GOOD["inputs"][0]


def changed(**members: object) -> dict:
    return {"inputs": [TENSOR | members]}


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        ({}, "malformed_json", "inputs: is missing"),
        ({"inputs": []}, "invalid_tensor", "takes one input"),
        ({"inputs": [TENSOR, TENSOR]}, "invalid_tensor", "the request has 2"),
        ({"inputs": [TENSOR] * 17}, "malformed_json", "at most 16"),
        (changed(name="input"), "invalid_tensor", "takes one input, images"),
        (changed(datatype="FP32"), "invalid_tensor", "UINT8 [N, 8, 8, 3]"),
        (changed(datatype="FP16", data=None), "invalid_inference_request", "neither data nor"),
        (changed(datatype=7), "malformed_json", "inputs.0.datatype: must be text"),
        (changed(shape=[1, 3, 8, 8]), "invalid_tensor", "BYTES [N]"),
        (changed(shape=[8, 8, 3]), "invalid_tensor", "UINT8 [8, 8, 3]"),
        (changed(shape=[-1, 8, 8, 3]), "malformed_json", "inputs.0.shape.0: must be at least 0"),
        (changed(shape=[1.0, 8, 8, 3]), "malformed_json", "must be a whole number"),
        (changed(shape=[0, 8, 8, 3], data=[]), "no_images", "is 0"),
        (changed(shape=[2, 8, 8, 3]), "invalid_tensor", "needs 384"),
        (changed(shape=[1] * 9), "malformed_json", "at most 8"),
        (changed(data=[0] * 191), "invalid_tensor", "has 191 elements"),
        (changed(data="x"), "malformed_json", "inputs.0.data: must be a list"),
        (changed(data=[1.5] * 192), "invalid_tensor", "whole numbers from 0 to 255"),
        (changed(parameters={"binary_data_size": 3}), "invalid_inference_request", "both data"),
        (changed(parameters={"shared_memory_region": "r"}), "no_shared_memory", "send the data"),
        (GOOD | {"outputs": [{"name": "nope"}]}, "missing_output", "its file has: probabilities"),
        (GOOD | {"outputs": [{"name": "x" * 9999}]}, "missing_output", "xxx...; its file has"),
        (GOOD | {"parameters": {"sequence_id": 5}}, "invalid_inference_request", "no state"),
        (GOOD | {"parameters": {"triton_x": 5}}, "invalid_inference_request", "reserved"),
        (GOOD | {"parameters": {"timeout": -1}}, "invalid_timeout", "microseconds"),
        (GOOD | {"parameters": {"timeout": "soon"}}, "invalid_timeout", "microseconds"),
        (GOOD | {"parameters": {"priority": "high"}}, "invalid_priority", "1 is the highest"),
        (GOOD | {"id": 7}, "malformed_json", "id: must be text"),
        (
            GOOD | {"outputs": [{"name": "probabilities", "parameters": {"classification": "a"}}]},
            "invalid_inference_request", "how many classes",
        ),
        (
            GOOD | {"outputs": [{"name": "embedding", "parameters": {"classification": 1}}]},
            "invalid_inference_request", "of probabilities",
        ),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_with_what_is_wrong(client, request_, code, words):
    response = client.post(INFER, json=request_)
    assert words in refused(response, response.status_code, code)
    assert response.status_code in {400, 422}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (["%%%"], "invalid_base64"),
        ([""], "empty_image"),
        (["bm8gaW1hZ2U="], "not_an_image"),
        ([3], "invalid_tensor"),
        ([["a"], ["b"]], "invalid_tensor"),
    ],
)
def test_a_bad_image_is_refused_like_that_of_classify(client, data, code):
    tensor = {"name": "images", "datatype": "BYTES", "shape": [1], "data": data}
    response = client.post(INFER, json={"inputs": [tensor]})
    refused(response, response.status_code, code)


def test_an_error_says_which_of_several_images_is_bad(client):
    response = client.post(INFER, json=image_request(colored("red"), b"no image"))
    assert refused(response, 415, "not_an_image").startswith("image 1: ")


def test_more_images_than_are_allowed_are_refused(serve):
    client = serve(max_images=2)
    response = client.post(INFER, json=json_request(pixels_of("red", "red", "red")))
    assert "3 images, and 2 are allowed" in refused(response, 413, "too_many_images")


@pytest.mark.parametrize("length", ["x", "-1", "", "1e3", "5000", "9" * 30])
def test_a_header_length_that_can_not_be_is_refused(client, length):
    response = client.post(INFER, json=GOOD, headers={LENGTH: length})
    refused(response, 400, "invalid_inference_request")


@pytest.mark.parametrize("size", [0, 191, 193, 2**63, -1, "192", True])
def test_binary_data_of_another_size_than_stated_is_refused(client, size):
    body, headers = binary_request(pixels_of("red"))
    body = body.replace(b": 192", b": " + json.dumps(size).encode())
    headers[LENGTH] = str(len(body) - 192)
    response = client.post(INFER, content=body, headers=headers)
    refused(response, 400, response.json()["code"])


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 5000, b'{"inputs":' * 500])
def test_json_that_is_none_or_too_deep_is_refused(client, body):
    response = client.post(INFER, content=body)
    assert response.status_code == 400
    jsonschema.validate(response.json(), ERROR)


@pytest.mark.parametrize("item", [b"1,", b"[],", b"{},", b"[[],[]],"])
def test_json_of_millions_of_items_is_refused_before_it_is_parsed(client, item):
    body = b'{"inputs": [' + item * 2_000_000 + b"0]}"
    assert "too many items" in refused(client.post(INFER, content=body), 400, "malformed_json")


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_body_gets_an_internal_error(client, body, length):
    """Not even one whose first part is JSON and whose rest is anything."""
    text = json.dumps(GOOD).encode()
    for content, header in ((body, length), (text + body, len(text)), (body, 0)):
        response = client.post(INFER, content=content, headers={LENGTH: str(header)})
        assert response.status_code in {200, 400}


def test_the_timeout_of_the_parameters_is_the_deadline(client):
    """In microseconds from the request's arrival, of which one is always over."""
    response = client.post(INFER, json=GOOD | {"parameters": {"timeout": 1}})
    assert response.json()["code"] in {"deadline_exceeded", "deadline_unreachable"}
    jsonschema.validate(response.json(), ERROR)
    assert client.post(INFER, json=GOOD | {"parameters": {"timeout": 0}}).status_code == 200
    longer = GOOD | {"parameters": {"timeout": 60_000_000, "priority": 2}}
    assert client.post(INFER, json=longer).status_code == 200
    headers = {"X-Request-Timeout-Ms": "x"}
    refused(client.post(INFER, json=GOOD, headers=headers), 400, "invalid_timeout")


def test_a_request_is_counted_and_its_bytes_are_given_back(client):
    """Under the template of its route."""
    client.post(INFER, json=GOOD)
    client.post(INFER, json={})
    metrics = client.get("/metrics").text
    route = 'route="/v2/models/{name}/infer"'
    assert f'resnet_serve_requests_total{{method="POST",{route},status="200"}} 1.0' in metrics
    assert 'resnet_serve_images_total{model="color",outcome="ok",version="1"} 1.0' in metrics
    assert client.app.state.runtime.body_bytes.held == 0
