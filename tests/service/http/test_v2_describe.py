"""What the Open Inference Protocol tells about server and models, and its errors."""

from __future__ import annotations

import json

import jsonschema
import pytest
from color_model import color_contract, write_color_model
from open_inference import ERROR, MODEL_METADATA, SERVER_METADATA, json_request, pixels_of
from wire import connect, read_answer


def test_health_is_json_and_a_status(client):
    """KServe's clients read the body, and Triton's the status."""
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.head("/v2/health/ready").status_code == 200
    assert client.get("/v2/models/color/ready").json() == {"name": "color", "ready": True}


def test_a_server_that_is_draining_is_not_ready_and_says_why(client):
    client.app.state.runtime.draining = True
    response = client.get("/v2/health/ready")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "error": "draining"}
    assert client.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_lists_its_extensions(client, path):
    answer = client.get(path).json()
    jsonschema.validate(answer, SERVER_METADATA)
    assert answer["name"] == "resnet-serve"
    assert {"classification", "binary_tensor_data", "statistics"} <= {*answer["extensions"]}


@pytest.mark.parametrize("path", ["/v2/models/color", "/v2/models/color/versions/1"])
def test_a_model_has_one_input_and_one_output(client, path):
    answer = client.get(path).json()
    jsonschema.validate(answer, MODEL_METADATA)
    assert answer["versions"] == ["1"]
    assert answer["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 8, 8, 3]}]
    assert answer["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]


def test_the_configuration_is_in_tritons_names(client):
    config = client.get("/v2/models/color/config").json()
    assert config["max_batch_size"] == 32
    (given,), (output,) = config["input"], config["output"]
    assert (given["data_type"], given["dims"], given["format"]) == (
        "TYPE_UINT8", [8, 8, 3], "FORMAT_NHWC",
    )  # fmt: skip
    assert (output["data_type"], output["dims"]) == ("TYPE_FP32", [3])
    assert output["label_filename"]


def test_versions_and_broken_files_are_listed(serve, tmp_path):
    for version in (1, 2):
        contract = color_contract(name="versions")
        write_color_model(tmp_path / "all" / "versions" / f"{version}.onnx", contract)
    (tmp_path / "all" / "broken.onnx").write_bytes(b"no model")
    client = serve(models=tmp_path / "all", default_model="versions")
    assert client.get("/v2/models/versions").json()["versions"] == ["1", "2"]
    assert client.get("/v2/models").json() == {"models": ["versions"]}
    rows = client.post("/v2/repository/index").json()
    states = {(row["name"], row["version"]): row["state"] for row in rows}
    assert states == {
        ("versions", "1"): "READY", ("versions", "2"): "READY", ("broken", "1"): "UNAVAILABLE",
    }  # fmt: skip
    ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert {row["name"] for row in ready} == {"versions"}
    broken = client.get("/v2/models/broken/ready")
    assert broken.status_code == 503
    jsonschema.validate(broken.json(), ERROR)


def test_models_are_loaded_and_unloaded_by_who_may(serve, model_folder):
    client = serve()
    path = "/v2/repository/models/color"
    assert client.post(f"{path}/unload").status_code == 403
    jsonschema.validate(client.post(f"{path}/load").json(), ERROR)
    client = serve(admin=True)
    assert (
        client.post(f"{path}/unload", json={"parameters": {"unload_dependents": False}}).json()
        == {}
    )
    assert client.get("/v2/models/color/ready").status_code == 404
    (row,) = client.post("/v2/repository/index").json()
    assert row["state"] == "UNAVAILABLE"
    assert client.post(f"{path}/load").json() == {}
    assert client.get("/v2/models/color/ready").status_code == 200
    for body in ({"parameters": {"config": "{}"}}, {"parameters": 3}):
        assert client.post(f"{path}/load", json=body).status_code == 400
    assert client.post("/v2/repository/models/nope/load").status_code == 404


def test_statistics_count_requests_images_and_batches(client):
    good = json_request(pixels_of("red", "blue"))
    assert client.post("/v2/models/color/infer", json=good).status_code == 200
    good["inputs"][0]["datatype"] = "BYTES"
    (stats,) = client.get("/v2/models/color/versions/1/stats").json()["model_stats"]
    assert stats["inference_count"] == 2
    assert 1 <= stats["execution_count"] <= 2
    assert stats["last_inference"] > 1e12
    # perf_analyzer refuses stages with unequal counts, untimed ones too.
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert stats["inference_stats"][name]["count"] == 1
    assert stats["inference_stats"]["compute_infer"]["ns"] > 0
    assert stats["inference_stats"]["queue"]["ns"] <= stats["inference_stats"]["success"]["ns"]
    assert stats["inference_stats"]["fail"]["count"] == 0
    failing = {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": ["AA=="]}]}
    assert client.post("/v2/models/color/infer", json=failing).status_code == 415
    (stats,) = client.get("/v2/models/stats").json()["model_stats"]
    assert stats["inference_stats"]["fail"]["count"] == 1


def test_extensions_that_are_not_there_say_so_as_their_clients_expect(client):
    for path in ("/v2/trace/setting", "/v2/models/color/trace/setting"):
        assert client.get(path).json() == {}
        assert client.post(path, json={}).json() == {}
        assert client.post(path, json={"trace_level": ["OFF"]}).status_code == 501
    for kind in ("system", "cuda"):
        path = f"/v2/{kind}sharedmemory"
        assert client.get(f"{path}/status").json() == []
        assert client.get(f"{path}/region/r/status").json() == []
        assert client.post(f"{path}/unregister").json() == {}
        assert client.post(f"{path}/region/r/unregister").json() == {}
        response = client.post(f"{path}/region/r/register", json={"key": "/k", "byte_size": 3})
        assert response.status_code == 400
        jsonschema.validate(response.json(), ERROR)
    assert client.get("/v2/logging").status_code == 501


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/nope", 404),
        ("GET", "/v2/models/nope", 404),
        ("GET", "/v2/models/color/versions/2", 404),
        ("GET", "/v2/models/color/versions/one/ready", 404),
        ("GET", "/v2/models/color/versions/9999999999", 404),
        ("GET", "/v2/models/nope/trace/setting", 404),
        ("DELETE", "/v2/models/color", 405),
        ("GET", "/v2/models/color/infer", 405),
        ("POST", "/v2/repository/index", 400),
    ],
)
def test_every_error_is_in_the_protocols_form(client, method, path, status):
    """Beside the members of a problem detail."""
    response = client.request(method, path, content=b"{" if method == "POST" else None)
    assert response.status_code == status
    jsonschema.validate(response.json(), ERROR)
    assert response.json()["status"] == status


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /v2/health/live HTTP/9.9\r\nHost: x\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        (b"POST /v2/models/color/infer?x HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000, 431),
    ],
)
def test_requests_that_http_refuses_are_no_exception(client, head, status):
    """A malformed request and one whose head is too large."""
    with connect(str(client.base_url)) as connection:
        connection.sendall(head)
        found, body = read_answer(connection)
    assert found == status
    jsonschema.validate(json.loads(body), ERROR)


def test_requests_that_http_refuses_behind_a_root_path_are_no_exception(serve):
    client = serve(root_path="/images")
    with connect(str(client.base_url)) as connection:
        connection.sendall(b"GET /images/v2/models HTTP/1.1\r\nHost: a b\r\n\r\n")
        _, body = read_answer(connection)
    jsonschema.validate(json.loads(body), ERROR)
    assert client.get("/images/v2/nope").json()["error"]


def test_errors_of_other_routes_are_as_they_were(client):
    assert "error" not in client.get("/nope").json()
    assert "error" not in client.get("/v2x").json()
