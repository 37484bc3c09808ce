"""Kinds of network from training to answers over HTTP, in each precision, at a reduced size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from photos import COLORS, colored, photo_folder
from process import client_of, serving

from model_export.checkpoint import read_checkpoint
from model_export.cli import main
from model_export.listing import multiply_adds
from model_export.loading import build_network


@dataclass(frozen=True)
class Reduced:
    """How narrow a network is trained, and with what input size."""

    width: int = 8
    side: int = 32


NETWORKS = {
    "ecaresnet50d": Reduced(),
    "resnest50d": Reduced(),
    "mobilenet_v2": Reduced(),
    "mobilenet_v3_large": Reduced(),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos") / "images", images=30)


@pytest.fixture(scope="module", params=NETWORKS)
def run(
    request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a training run, named after its architecture."""
    run: Path = tmp_path_factory.mktemp("runs") / request.param
    network = NETWORKS[request.param]
    command = ["train", str(photos), "--output", str(run), "--architecture", request.param,
               "--width", str(network.width), "--input-size", str(network.side),
               "--resize", str(network.side), "--epochs", "10", "--batch", "8",
               "--learning-rate", "0.01", "--ema-decay", "0.5"]  # fmt: skip
    assert main(command) == 0
    return run


def export(run: Path, output: Path, *more: str) -> int:
    weights = ("--weights", str(run / "best.pth"))
    return main(["export", run.name, *weights, "--output", str(output), "--max-batch", "2", *more])


def test_what_was_trained_is_exported_verified_and_served(run: Path, tmp_path: Path):
    """It knows photos of the same colours that were neither trained on nor held out."""
    model = tmp_path / "models" / "net.onnx"
    assert export(run, model) == 0
    assert main(["verify", str(model), "--weights", str(run / "best.pth")]) == 0
    with serving("--models", model.parent) as server, client_of(server) as client:
        for color in COLORS:
            answer = client.post("/v1/classify", content=colored(color, 50)).raise_for_status()
            (result,) = answer.json()["results"]
            assert result["labels"][0]["label"] == color, result


@pytest.mark.full
def test_its_lower_precisions_agree_and_cost_as_much(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """An export whose labels agree too seldom with float32's would fail."""
    monkeypatch.setattr("model_export.speed._ROUND_S", 0.01)
    files = [tmp_path / f"{precision}.onnx" for precision in ("fp16", "int8")]
    for file in files:
        assert export(run, file, "--precision", file.stem, "--images", str(photos)) == 0
    capsys.readouterr()
    assert main(["compare", *map(str, files), str(photos), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["files"]
    network = build_network(run.name, read_checkpoint(run / "best.pth"))
    expected = multiply_adds(network, NETWORKS[run.name].side)
    assert [file["multiply_adds"] for file in facts] == [expected, expected]
