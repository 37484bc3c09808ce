"""The program follows its model folder while it answers."""

from __future__ import annotations

from color_model import color_contract, write_color_model
from images import colored, top_label
from process import client_of, serving

from service.contract import Label

LABELS = tuple(Label(id=f"d{i}", label=label) for i, label in enumerate("xyz"))


def test_a_version_that_appears_answers_and_a_bad_one_does_not(tmp_path):
    folder = tmp_path / "models" / "color"
    write_color_model(folder / "1.onnx")
    flags = ["--models", tmp_path / "models", "--watch", "--watch-interval-s", 0.05]
    with serving(*flags) as server, client_of(server) as client:
        write_color_model(folder / ".new", color_contract(labels=LABELS)).rename(folder / "2.onnx")
        assert server.wait_for("model_installed")["version"] == 2
        answer = client.post("/v1/classify", content=colored("red"))
        assert (top_label(answer), answer.json()["version"]) == ("x", 2)

        (folder / "3.onnx").write_bytes(b"no model")
        assert server.wait_for("model_load_failed")["version"] == 3
        (failed,) = client.get("/health").json()["failed_loads"]
        assert failed["version"] == 3
        answer = client.post("/v1/classify", content=colored("red"))
        assert (top_label(answer), answer.json()["version"]) == ("x", 2)

        (folder / "2.onnx").unlink()
        assert server.wait_for("model_retired")["version"] == 2
        assert top_label(client.post("/v1/classify", content=colored("red"))) == "red"
        server.signal()
        assert server.exit_status() == 0
    assert [entry["event"] for entry in server.events].count("model_load_failed") == 1
