"""Starting the real process: a mistake is one readable line and a non-zero status."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from color_model import write_color_model
from images import colored, top_label
from process import PROGRAM, Serving, answering, client_of, run_to_end, serving

from service.engine.providers import OPENVINO


def refusal(*flags: object, **variables: str) -> str:
    """Return the single line that a refused start prints."""
    ended = run_to_end([*PROGRAM, "serve", "--port", "0", *map(str, flags)], **variables)
    assert ended.returncode == 1, ended
    *logged, line = ended.stderr.splitlines()
    assert all("level" in entry for entry in logged), ended.stderr
    assert line.startswith("resnet-serve: error: ")
    assert "Traceback" not in ended.stderr
    return line


def test_the_built_in_model_is_served_when_no_folder_is_given():
    """No network, no PyTorch, and no files except the package's own."""
    with serving() as server, client_of(server) as client:
        (model,) = client.get("/v1/models").json()["models"]
        assert model["name"] == "slim-resnet50"
        assert model["classes"] == 200
        response = client.post("/v1/classify", content=colored("red", (300, 200), "JPEG"))
        labels = response.json()["results"][0]["labels"]
        assert len(labels) == 5
        assert all(re.fullmatch(r"n\d{8}", label["id"]) for label in labels)


def test_the_built_in_model_is_served_beside_a_folder_when_asked_for(model_folder):
    """With several models and no default, a request has to name one; the refusal lists them."""
    with serving("--models", model_folder, "--builtin") as server, client_of(server) as client:
        server.wait_for("model_ready")
        refused = client.post("/v1/classify", content=colored())
        assert (refused.status_code, refused.json()["code"]) == (400, "model_required")
        assert "color, slim-resnet50" in refused.json()["detail"]
        named = client.post("/v1/classify?model=color", content=colored("blue"))
        assert top_label(named) == "blue"


@pytest.fixture(scope="module")
def set_by_variables(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Yield a server configured by variables and one flag."""
    folder = tmp_path_factory.mktemp("models")
    write_color_model(folder / "color.onnx")
    variables: dict[str, Any] = {
        "RESNET_SERVE_MODELS": str(folder),
        "RESNET_SERVE_MAX_QUEUE": "77",
        "RESNET_SERVE_MAX_IMAGES": "3",
        # Kubernetes sets these in every pod next to a Service named resnet-serve.
        "RESNET_SERVE_PORT": "tcp://10.0.0.7:8000",
        "RESNET_SERVE_SERVICE_HOST": "10.0.0.7",
        "RESNET_SERVE_PORT_8000_TCP_ADDR": "10.0.0.7",
    }
    with serving("--max-queue", 99, **variables) as server:
        yield server


def test_flags_win_over_the_environment(set_by_variables):
    with client_of(set_by_variables) as client:
        assert client.get("/health").json()["models"][0]["queue"]["limit"] == 99
        four = client.post("/v1/classify", files=[("files", colored())] * 4)
        assert four.json()["code"] == "too_many_images", "where there is no flag"


def test_service_links_of_kubernetes_are_passed_over_with_a_warning(set_by_variables):
    warned = [e for e in set_by_variables.events if e["event"] == "setting_passed_over"]
    assert len(warned) == 3


def test_a_log_line_of_a_request_has_its_id_batch_and_timings(set_by_variables):
    with client_of(set_by_variables) as client:
        client.post("/v1/classify", content=colored(), headers={"X-Request-Id": "me-1"})
    while (line := set_by_variables.wait_for("request"))["request_id"] != "me-1":
        pass
    assert (line["status"], line["images"], line["batch_size"]) == (200, 1, 1)
    assert {"receive_ms", "decode_ms", "queue_ms", "infer_ms", "total_ms"} <= set(line)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--max-batch", "-1"], "--max-batch (RESNET_SERVE_MAX_BATCH)"),
        (["--port", "99999"], "--port (RESNET_SERVE_PORT)"),
        (["--provider", "cuda"], "cuda"),
        (["--models", "/nonexistent"], "/nonexistent"),
        (["--default-model", "nope"], "slim-resnet50"),
        (["--host", "host.invalid"], "--host"),
    ],
)
def test_a_bad_setting_stops_the_start_with_its_name(flags, said):
    assert said in refusal(*flags)


def test_an_unknown_variable_stops_the_start_with_its_name():
    assert "RESNET_SERVE_MAX_BACH" in refusal(RESNET_SERVE_MAX_BACH="4")


@pytest.mark.skipif(OPENVINO.is_installed(), reason="has OpenVINO")
@pytest.mark.parametrize("given", [{}, {"--runners": 1, "--intra-op-threads": 1}])
def test_a_provider_that_is_not_installed_is_missed_in_a_line(tmp_path, given):
    """With a cache, too, in which measurements go by the release of what computes."""
    flags = [text for pair in given.items() for text in pair]
    line = refusal("--provider", "openvino", "--cache-dir", tmp_path, *flags)
    assert "OpenVINO is not installed; run `pip install" in line


def break_beside(model_folder: Path) -> Path:
    broken = model_folder / "broken.onnx"
    broken.write_bytes((model_folder / "color.onnx").read_bytes()[:100])
    return broken


@pytest.mark.parametrize(
    "flags", [["--strict-models"], ["--default-model", "broken"], ["--models", "broken.onnx"]]
)
def test_a_broken_model_file_that_is_needed_stops_the_start_with_its_name(model_folder, flags):
    broken = break_beside(model_folder)
    flags = [str(broken) if flag == "broken.onnx" else flag for flag in flags]
    assert str(broken) in refusal("--models", model_folder, *flags)


def test_a_broken_model_file_beside_others_is_told_and_they_are_served(model_folder):
    broken = break_beside(model_folder)
    with serving("--models", model_folder) as server, client_of(server) as client:
        (told,) = [event for event in server.events if event["event"] == "model_broken"]
        assert (told["level"], told["path"]) == ("error", str(broken))
        assert client.get("/readyz").status_code == 200
        answer = client.post("/v1/classify?model=color", content=colored("blue"))
        assert top_label(answer) == "blue"
        refused = client.post("/v1/classify?model=broken", content=colored())
        assert (refused.status_code, refused.json()["code"]) == (503, "model_broken")


def test_a_port_in_use_stops_the_start():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run_to_end([*PROGRAM, "serve", "--port", str(port)])
    assert ended.returncode == 1
    assert f"port {port}" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_is_told_before_anything_is_loaded(model_folder):
    (model_folder / "color.onnx").write_bytes(b"no model")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port}" in refusal("--models", model_folder, "--port", port)


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&-", "<&- >&- 2>&-"])
def test_it_starts_whichever_standard_streams_are_closed(model_folder, closed):
    """And no connection or file gets their descriptors, into which a library could print."""
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *PROGRAM, "serve"]
    with answering([*command, "--models", str(model_folder)], stderr=subprocess.PIPE) as served:
        process, client = served
        assert top_label(client.post("/v1/classify", content=colored("blue"))) == "blue"
        for number in re.findall(r"[<>]", closed.replace("2>", "")):
            opened = Path(f"/proc/{process.pid}/fd/{'<>'.index(number)}")
            assert opened.readlink() == Path("/dev/null")


def test_the_runtime_leaves_no_device_id_and_sends_nothing(model_folder, tmp_path):
    """ONNX Runtime's telemetry is off: it would keep an id under the cache folder."""
    cache = tmp_path / "cache"
    cache.mkdir()
    variables: dict[str, Any] = {"XDG_CACHE_HOME": str(cache), "HOME": str(cache)}
    with serving("--models", model_folder, **variables) as server:
        server.signal()
        assert server.exit_status() == 0
    assert list(cache.rglob("*")) == []


def test_help_lists_every_setting_with_its_default():
    ended = run_to_end([*PROGRAM, "serve", "--help"])
    assert ended.returncode == 0
    assert "--max-batch" in ended.stdout
    assert "[8000]" in ended.stdout


@pytest.mark.parametrize("command", [[], ["serve"], ["bench"]])
def test_every_help_ends_with_examples_that_its_own_flags_understand(command):
    ended = run_to_end([*PROGRAM, *command, "--help"])
    known = set(re.findall(r"--[\w-]+", ended.stdout.partition("examples:")[0]))
    examples = re.findall(r"^  (?:\w+=\w+ )?resnet-serve (.+)$", ended.stdout, re.MULTILINE)
    assert examples
    for example in examples if command else []:
        assert set(re.findall(r"--[\w-]+", example)) <= known
