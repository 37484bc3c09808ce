"""POST /v1/classify with a model of independent labels."""

from __future__ import annotations

import pytest
from color_model import write_color_model
from images import colored

from service.contract import MultiLabel


@pytest.fixture
def served(serve, model_folder):
    """A client of a server whose labels c0, c1, c2 have the thresholds 0.5, 0.000001 and 0.5."""
    rule = MultiLabel(thresholds={"c1": 1e-6})
    write_color_model(model_folder / "color.onnx", multi_label=rule)
    return serve()


def labels(response) -> list[str]:
    assert response.status_code == 200, response.text
    return [label["id"] for label in response.json()["results"][0]["labels"]]


def probabilities(client) -> dict[str, float]:
    response = client.post("/v1/classify?threshold=0", content=colored("red"))
    (result,) = response.json()["results"]
    return {label["id"]: label["probability"] for label in result["labels"]}


def test_labels_are_those_at_or_above_their_own_threshold(served):
    """Most probable first, and as many as there are."""
    found = probabilities(served)
    assert found["c0"] > 0.5
    assert 1e-6 < found["c1"] < 0.5
    assert found["c2"] < 0.5
    assert labels(served.post("/v1/classify", content=colored("red"))) == ["c0", "c1"]


def test_a_threshold_of_the_request_is_that_of_all_labels(served):
    found = sorted(probabilities(served).values(), reverse=True)
    between = (found[0] + found[1]) / 2
    for threshold, count in ((0, 3), (between, 1), (1, 0)):
        response = served.post(f"/v1/classify?threshold={threshold:.6f}", content=colored("red"))
        assert len(labels(response)) == count


def test_top_k_is_the_most_that_are_listed(served):
    assert labels(served.post("/v1/classify?top_k=1", content=colored("red"))) == ["c0"]


def test_the_model_shows_its_thresholds(served):
    detail = served.get("/v1/models/color").json()
    assert detail["multi_label"] == {"threshold": 0.5, "thresholds": {"c1": 1e-6}}


@pytest.mark.parametrize("threshold", ["-0.1", "1.1", "1e3", "x", "", "nan", ".5", "0_1", " 0.5"])
def test_what_is_no_threshold_is_refused(served, threshold):
    response = served.post("/v1/classify", params={"threshold": threshold}, content=b"x")
    assert (response.status_code, response.json()["code"]) == (400, "invalid_parameter")


def test_a_model_of_which_one_label_is_right_has_no_threshold(client):
    response = client.post("/v1/classify?threshold=0.5", content=colored("red"))
    assert (response.status_code, response.json()["code"]) == (422, "not_multi_label")
    assert "color" in response.json()["detail"]


def test_the_api_describes_thresholds_where_a_model_has_some(served):
    operation = served.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]
    (threshold,) = (each for each in operation["parameters"] if each["name"] == "threshold")
    assert threshold["schema"]["type"] == "number"
    assert (threshold["schema"]["minimum"], threshold["schema"]["maximum"]) == (0, 1)


def test_the_api_describes_the_models_that_are_served_now(serve, model_folder):
    """Not those of the start: what changes is loaded and unloaded while the service runs."""
    client = serve(admin=True)

    def described() -> dict[str, dict]:
        operation = client.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]
        return {each["name"]: each["schema"] for each in operation["parameters"]}

    assert "threshold" not in described()
    write_color_model(model_folder / "many.onnx", name="many", multi_label=MultiLabel())
    assert client.post("/v1/models/many/load").status_code == 200
    assert "threshold" in described()
    for name in ("many", "color"):
        assert client.post(f"/v1/models/{name}/unload").status_code == 200
    assert "threshold" not in described()
