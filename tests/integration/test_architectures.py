"""Kinds of network from training to answers over HTTP, in each precision, at a reduced size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from networks import random_network, save_checkpoint
from photos import COLORS, colored, photo_folder
from process import client_of, serving

from model_export.checkpoint import read_checkpoint
from model_export.cli import main
from model_export.listing import multiply_adds
from model_export.loading import build_network
from model_export.model_file import read_model


@dataclass(frozen=True)
class Reduced:
    """How narrow a network is trained, and with what input size."""

    width: int = 8
    side: int = 32


NETWORKS = {
    "ecaresnet50d": Reduced(),
    "resnest50d": Reduced(),
    "separable_resnet50": Reduced(),
    "botnet26t_256": Reduced(side=64),
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


def test_a_botnet_has_the_input_size_of_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """It need not be said, and another one is refused, by training too."""
    network = random_network("botnet26t_256", stem=None, side=64)
    weights = save_checkpoint(network, tmp_path / "net.pth")
    labels = tmp_path / "labels.txt"
    labels.write_text("ant\nbee\ncat\ndog\neel\n")
    output = tmp_path / "net.onnx"
    command = ["export", "botnet26t_256", "--weights", str(weights), "--labels", str(labels),
               "--output", str(output), "--max-batch", "1"]  # fmt: skip
    training = ["train", str(photo_folder(tmp_path / "photos")), "--output", str(tmp_path / "run"),
                "--architecture", "botnet26t_256", "--weights", str(weights)]  # fmt: skip
    for refused in (command, training):
        assert main([*refused, "--input-size", "96"]) == 2
        said = capsys.readouterr().err
        assert said.endswith("--input-size 96: the network takes images of 64 pixels only\n")
    assert not output.exists()
    assert main(command) == 0
    contract = read_model(output)[1]
    assert (contract.preprocessing.crop, contract.preprocessing.resize) == (64, 73)


@pytest.mark.full
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_its_lower_precisions_agree_and_cost_as_much(
    run: Path, photos: Path, tmp_path: Path, precision: str, capsys: pytest.CaptureFixture[str]
):
    """An export whose labels agree too seldom with float32's would fail."""
    file = tmp_path / "net.onnx"
    assert export(run, file, "--precision", precision, "--images", str(photos)) == 0
    capsys.readouterr()
    assert main(["describe", str(file), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    network = build_network(run.name, read_checkpoint(run / "best.pth"))
    assert facts["multiply_adds"] == multiply_adds(network, NETWORKS[run.name].side)
