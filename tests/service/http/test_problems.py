"""Errors as problem details, and what every answer has."""

from __future__ import annotations

import inspect
import json
import re

import pytest
import structlog
from images import colored, encode, photo, top_label
from wire import connect, read_all, read_answer

from service import errors
from service.preprocess.decode import decode, decode_at_once


def request_errors() -> list[type[errors.RequestError]]:
    return [
        value
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, errors.RequestError) and value is not errors.RequestError
    ]


def test_each_cause_has_a_code_and_a_title_of_its_own():
    codes = [error.code for error in request_errors()]
    assert len(set(codes)) == len(codes)
    assert len({error.title for error in request_errors()}) == len(codes)


def test_each_error_class_stands_in_the_road_drawn_above_them():
    drawn = set(re.findall(r"\w+Error\b", inspect.getdoc(errors) or ""))
    raised = {
        value.__name__
        for _, value in inspect.getmembers(errors, inspect.isclass)
        if not value.__subclasses__() or value in (errors.ModelFileError, errors.SessionFailedError)
    }
    assert raised == drawn


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/classify?top_k=0", 400, "top_k_out_of_range"),
        ("/v1/classify?top_k=4", 400, "top_k_out_of_range"),
        ("/v1/classify?top_k=many", 400, "invalid_parameter"),
        ("/v1/classify?version=x", 400, "invalid_parameter"),
        ("/v1/classify?model=nope", 404, "unknown_model"),
        ("/v1/classify?model=../../etc/passwd", 404, "unknown_model"),
        ("/v1/classify?version=9", 404, "unknown_model"),
        ("/v1/classify?top_k=1_0", 400, "invalid_parameter"),
        ("/v1/classify?version=1.0", 400, "invalid_parameter"),
        ("/v1/classify?top_k=" + "9" * 5000, 400, "invalid_parameter"),
        ("/v1/classify?topk=2", 400, "invalid_parameter"),
        ("/v1/classify?TOP_K=2", 400, "invalid_parameter"),
        ("/v1/classify?" + "x" * 5000, 400, "invalid_parameter"),
        ("/v1/classify?top_k=1&top_k=2", 400, "invalid_parameter"),
        ("/v1/nothing", 404, "not_found"),
        ("/v1/classify/", 404, "not_found"),
        ("/v1%2Fclassify", 404, "not_found"),
        ("/v1%5cclassify", 404, "not_found"),
        ("/v1/models/a%2Fb", 405, "method_not_allowed"),
        ("/health", 405, "method_not_allowed"),
    ],
)
def test_a_bad_request_gets_a_problem_detail(client, path, status, code):
    """RFC 9457 members, the code, and the id that the header carries too."""
    response = client.post(path, content=colored())
    problem = response.json()
    assert response.status_code == problem["status"] == status
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["code"] == code
    assert problem["request_id"] == response.headers["x-request-id"]
    assert len(problem["detail"]) < 300
    assert set(problem) == {"type", "title", "status", "detail", "code", "request_id"}
    assert top_label(client.post("/v1/classify", content=colored("blue"))) == "blue"


def test_an_unknown_parameter_is_named_with_those_that_are_allowed(client):
    """`topk=2` would give five labels."""
    response = client.post("/v1/classify?top_k=1&topk=2", content=colored())
    detail = (
        "there is no parameter 'topk'; allowed: model, version, top_k, threshold, coverage, abstain"
    )
    assert response.json()["detail"] == detail


def test_no_parameter_is_judged_in_the_words_of_a_library(client):
    """They speak of inputs and strings."""
    detail = client.post("/v1/classify?model=", content=colored()).json()["detail"]
    assert detail == "model: must be 1 or more characters long, got ''"


@pytest.mark.parametrize("query", ["top_k=many", "version=1.0", "model="])
def test_a_bad_parameter_is_named_with_its_value_and_nothing_else(client, query):
    """Once, in words for who sent it."""
    name, _, value = query.partition("=")
    detail = client.post(f"/v1/classify?{query}", content=colored()).json()["detail"]
    assert detail.startswith(f"{name}: ")
    assert detail.endswith(f"got {value!r}")
    assert detail.count("got") == 1


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/metrics"])
def test_probes_and_metrics_pass_over_parameters(client, path):
    """Monitors put their own there."""
    assert client.get(f"{path}?target=x").status_code == 200


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/v1/models", "/v1/models/color",
                                  "/openapi.json", "/nothing", "/v1/models/nope"])  # fmt: skip
def test_json_ends_with_a_newline(client, path):
    """A terminal's prompt begins a line."""
    assert client.get(path).content.endswith(b"}\n")


@pytest.mark.parametrize("body", [colored(), b"no image", b""])
def test_json_about_images_ends_with_a_newline(client, body):
    assert client.post("/v1/classify", content=body).content.endswith(b"}\n")


def test_a_refusal_of_what_is_no_request_ends_with_a_newline(client):
    with connect(client.base_url) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert read_all(connection).endswith(b"}\n")


def test_a_wrong_method_is_told_the_right_one(client):
    assert client.get("/v1/classify").headers["allow"] == "POST"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "video/mp4", "nonsense"]
)
def test_a_wrong_content_type_is_told_the_right_ones(client, content_type):
    """What curl announces for --data-binary is among the wrong ones, so the message has to help."""
    response = client.post(
        "/v1/classify", content=colored(), headers={"Content-Type": content_type}
    )
    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
    assert "image/*" in response.json()["detail"]


def test_what_is_no_request_is_counted_and_logged_as_others_are(serve):
    with structlog.testing.capture_logs() as logs:
        client = serve()
        with connect(client.base_url) as connection:
            connection.sendall(b"hello\r\n\r\n")
            status, answer = read_answer(connection)
        assert (status, json.loads(answer)["code"]) == (400, "malformed_request")
        metric = 'resnet_serve_rejected_total{reason="malformed_request"} 1.0'
        assert metric in client.get("/metrics").text
    ids = [log["request_id"] for log in logs if log.get("code") == "malformed_request"]
    assert ids == [json.loads(answer)["request_id"]]


def test_a_body_that_breaks_off_its_coding_is_counted_and_logged_once(serve):
    """Though its handler was waiting for the rest of it."""
    with structlog.testing.capture_logs() as logs:
        client = serve()
        with connect(client.base_url) as connection:
            connection.sendall(
                b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"
            )
            while "requests_in_flight 2.0" not in client.get("/metrics").text:
                pass
            connection.sendall(b"zz\r\n")
            status, _ = read_answer(connection)
        assert status == 400
        while "requests_in_flight 1.0" not in (text := client.get("/metrics").text):
            pass
    assert 'rejected_total{reason="malformed_request"} 1.0' in text
    assert 'reason="client_disconnected"' not in text
    (counted,) = [
        line for line in text.splitlines() if "requests_total{" in line and "POST" in line
    ]
    assert 'status="400"' in counted
    assert counted.endswith(" 1.0")
    assert [log["code"] for log in logs if log.get("code")] == ["malformed_request"]


def test_a_well_formed_request_id_is_kept(client):
    response = client.get("/readyz", headers={"X-Request-Id": "abc-123.X:y_z"})
    assert response.headers["x-request-id"] == "abc-123.X:y_z"


@pytest.mark.parametrize("bad", ["", "a b", "x" * 129, "-starts-wrong", 'q"uote', "{inject}"])
def test_a_malformed_request_id_is_replaced(client, bad):
    """It would go into logs and headers."""
    made = client.get("/readyz", headers={"X-Request-Id": bad}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", made)


@pytest.mark.parametrize(("ids", "kept"), [(("a", "b"), None), (("a", "a"), "a")])
def test_of_two_request_ids_none_is_taken(client, ids, kept):
    """Whoever wrote the other one would look for it in vain."""
    headers = [("X-Request-Id", value) for value in ids]
    made = client.get("/readyz", headers=headers).headers["x-request-id"]
    assert made == kept if kept else re.fullmatch(r"[0-9a-f]{32}", made)


@pytest.mark.parametrize("coalesce", [False, True])
@pytest.mark.parametrize(
    ("image_format", "decoder"), [("PNG", decode), ("JPEG", decode_at_once)], ids=["PNG", "JPEG"]
)
def test_an_internal_error_gives_an_id_and_no_traceback(
    serve, monkeypatch, image_format, decoder, coalesce
):
    """A defect in the road is answered with 500 as a problem, and the server goes on.

    On a thread, where a PNG is decoded, and on the event loop.
    """
    client, image = serve(coalesce=coalesce), encode(photo(40, 30), image_format)

    def broken(data: bytes, *arguments: object) -> object:
        if data == image:
            raise AttributeError
        return decoder(data, *arguments)

    monkeypatch.setattr(f"service.inference.pipeline.{decoder.__name__}", broken)
    response = client.post("/v1/classify", content=image)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (500, "internal_error")
    assert problem["request_id"] in problem["detail"]
    assert "AttributeError" not in response.text
    both = client.post("/v1/classify", files=[("f", ("a", image)), ("f", ("b", image))])
    assert (both.status_code, both.json()["code"]) == (500, "internal_error"), "no client's fault"
    mixed = client.post("/v1/classify", files=[("f", ("a", image)), ("f", ("b", b""))])
    codes = [result["error"]["code"] for result in mixed.json()["results"]]
    assert (mixed.status_code, codes) == (422, ["internal_error", "empty_image"])
    assert client.get("/readyz").status_code == 200
    counted = 'resnet_serve_images_total{model="color",outcome="internal_error",version="1"} 4.0'
    assert counted in client.get("/metrics").text


def test_an_engine_failure_is_500_for_its_batch_and_the_next_works(serve):
    client = serve()
    (model,) = client.app.state.runtime.repository
    run = model.engine.run

    def broken(pixels, outputs):
        raise RuntimeError("CUDA error 700")

    model.engine.run = broken
    response = client.post("/v1/classify", content=colored())
    assert (response.status_code, response.json()["code"]) == (500, "inference_failed")
    assert "CUDA" not in response.text
    model.engine.run = run
    assert top_label(client.post("/v1/classify", content=colored("red"))) == "red"


def test_cors_is_off_unless_set(serve):
    origin = {"Origin": "https://app.example"}
    assert "access-control-allow-origin" not in serve().get("/readyz", headers=origin).headers
    client = serve(cors_origins="https://app.example")
    allowed = client.get("/readyz", headers=origin)
    assert allowed.headers["access-control-allow-origin"] == "https://app.example"
    client.app.state.runtime.inference = None  # a defect: answered by the middleware
    failed = client.post("/v1/classify", content=colored(), headers=origin)
    assert failed.status_code == 500
    assert failed.headers["access-control-allow-origin"] == "https://app.example"
