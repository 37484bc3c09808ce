"""POST /v1/classify with coverage and abstain, of a model file that was calibrated."""

from __future__ import annotations

import json

import numpy as np
import pytest
from calibrated import calibration, embedding, write_calibrated
from color_model import write_color_model
from images import colored, encode
from PIL import Image

from service.contract import MultiLabel
from service.errors import CalibrationError


@pytest.fixture
def served(serve, model_folder):
    """A client of a server with the calibrated colour model."""
    write_calibrated(model_folder / "color.onnx", json.dumps(calibration()))
    return serve()


def plain(color: tuple[int, int, int]) -> bytes:
    return encode(Image.new("RGB", (9, 7), color))


def result(response) -> dict:
    assert response.status_code == 200, response.text
    (found,) = response.json()["results"]
    return found


@pytest.mark.parametrize(
    ("asked", "level", "labels"),
    [
        ("5e-1", 0.8, 1),
        ("0.12345678901234567", 0.8, 1),
        ("0.8", 0.8, 1),
        ("0.81", 0.95, 2),
        ("0", 0.8, 1),
    ],
)
def test_a_set_has_at_least_the_coverage_that_is_asked(served, asked, level, labels):
    """The lowest calibrated level that is not below it, which the answer states."""
    found = result(served.post(f"/v1/classify?coverage={asked}", content=plain((130, 128, 20))))
    assert found["coverage"] == level
    assert [label["id"] for label in found["labels"]] == ["c0", "c1", "c2"][:labels]
    assert "outside" not in found


def test_sets_show_tempered_probabilities_and_other_answers_do_not_change(served):
    image = plain((130, 128, 20))
    usual_labels = result(served.post("/v1/classify", content=image))["labels"]
    usual = [label["probability"] for label in usual_labels]
    shown = result(served.post("/v1/classify?coverage=0.95", content=image))["labels"]
    roots = np.sqrt(usual)
    assert shown[0]["probability"] == pytest.approx(roots[0] / roots.sum(), abs=1e-5)
    assert shown[0]["probability"] != usual[0]


@pytest.mark.parametrize(
    ("color", "outside", "score"),
    [
        ((128, 128, 128), False, 0.0),
        ((138, 138, 138), False, 0.5),
        ((167, 128, 128), True, 3.9 / np.sqrt(3) / 2),
        ((128, 128, 255), True, 12.7 / np.sqrt(3) / 2),
    ],
)
def test_an_image_far_from_the_calibrations_is_marked(served, color, outside, score):
    """By its distance as a multiple of that up to which images are inside."""
    found = result(served.post("/v1/classify?abstain=true", content=plain(color)))
    assert found["outside"] is outside
    assert found["score"] == pytest.approx(score, abs=1e-4)
    assert len(found["labels"]) == 3, "labels are there all the same"


def test_each_of_several_images_is_marked_and_errors_stay(served):
    files = [("f", ("a", plain((128,) * 3))), ("f", ("b", b"")), ("f", ("c", colored("blue")))]
    response = served.post("/v1/classify?abstain=true&coverage=0.9", files=files)
    inside, error, outside = response.json()["results"]
    assert (inside["outside"], outside["outside"]) == (False, True)
    assert inside["coverage"] == outside["coverage"] == 0.95
    assert set(error) == {"name", "error"}


def test_abstain_false_is_as_if_it_was_not_asked(served):
    assert "outside" not in result(served.post("/v1/classify?abstain=false", content=colored()))


def test_the_model_shows_its_calibration_without_arrays(served):
    shown = served.get("/v1/models/color").json()["calibration"]
    assert shown["temperature"] == 2.0
    assert shown["coverage"][1]["measured"] == 0.96
    assert shown["embedding"]["outside"]["auroc"] == 0.99
    assert "mean" not in shown["embedding"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("coverage=0.96", 422, "coverage_out_of_range"),
        ("coverage=1.5", 400, "invalid_parameter"),
        ("coverage=90%25", 400, "invalid_parameter"),
        ("coverage=0.9&top_k=2", 400, "invalid_parameter"),
        ("abstain=yes", 400, "invalid_parameter"),
        ("abstain=", 400, "invalid_parameter"),
        ("threshold=0.5&coverage=0.9", 422, "not_multi_label"),
    ],
)
def test_what_can_not_be_asked_is_refused(served, query, status, code):
    response = served.post(f"/v1/classify?{query}", content=colored())
    assert (response.status_code, response.json()["code"]) == (status, code)


@pytest.mark.parametrize("query", ["coverage=0.9", "abstain=true"])
def test_a_file_that_was_not_calibrated_says_so(client, query):
    response = client.post(f"/v1/classify?{query}", content=colored())
    assert (response.status_code, response.json()["code"]) == (422, "not_calibrated")
    assert "resnet-export calibrate" in response.json()["detail"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embedding": None}, "needs an embedding"),
        ({"embedding": embedding(outside=None)}, "judged by images from outside"),
    ],
)
def test_abstaining_needs_an_embedding_that_was_judged(serve, model_folder, changes, said):
    write_calibrated(model_folder / "color.onnx", json.dumps(calibration(**changes)))
    client = serve()
    response = client.post("/v1/classify?abstain=true", content=colored())
    assert (response.status_code, response.json()["code"]) == (422, "not_calibrated")
    assert said in response.json()["detail"]
    assert result(client.post("/v1/classify?coverage=0.9", content=colored()))["coverage"] == 0.95


def test_an_embedding_of_another_size_is_an_error_of_the_image(serve, model_folder):
    """A hand-made file; the service goes on."""
    wide = embedding(mean="AAAAAAAAAAA=", directions="AACAPwAAAAA=")
    write_calibrated(model_folder / "color.onnx", json.dumps(calibration(embedding=wide)))
    client = serve()
    response = client.post("/v1/classify?abstain=true", content=colored())
    assert (response.status_code, response.json()["code"]) == (500, "inference_failed")
    assert client.post("/v1/classify", content=colored()).status_code == 200


def test_a_broken_calibration_keeps_the_file_from_being_served(serve, model_folder):
    write_calibrated(model_folder / "color.onnx", "{")
    with pytest.raises(CalibrationError, match="its calibration is invalid"):
        serve()


def test_independent_labels_can_not_be_asked_for_coverage(serve, model_folder):
    write_color_model(model_folder / "color.onnx", multi_label=MultiLabel())
    response = serve().post("/v1/classify?coverage=0.9", content=colored())
    assert (response.status_code, response.json()["code"]) == (422, "not_calibrated")
    assert "are independent" in response.json()["detail"]


def test_the_api_describes_what_a_model_here_answers(served):
    """The colour model of other tests has neither, and their descriptions no such parameters."""
    operation = served.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert {"coverage", "abstain"} <= names
    assert "threshold" not in names
