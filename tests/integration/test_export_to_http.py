"""From a trained network through `resnet-export` and `resnet-serve` to labels over HTTP."""

from __future__ import annotations

import json

import pytest
import torch
from digits import ARCHITECTURE, CLASSES, SIDE, TrainedDigits, trained_digits
from images import encode
from PIL import Image
from process import EXPORT, client_of, run_to_end, serving

from model_export.architectures.build import build


def export(*arguments: object) -> str:
    ended = run_to_end([*EXPORT, *map(str, arguments)])
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def digits(shared) -> TrainedDigits:
    return trained_digits(shared)


@pytest.fixture(scope="module")
def digits_model(digits: TrainedDigits, tmp_path_factory):
    """Return the trained digits as a model file, made by the program."""
    folder = tmp_path_factory.mktemp("digits")
    weights, labels = folder / "digits.pth", folder / "digits.json"
    torch.save(digits.network.state_dict(), weights)
    labels.write_text(json.dumps(CLASSES), encoding="utf-8")
    model = folder / "models" / "digits" / "3.onnx"
    export("export", ARCHITECTURE, "--weights", weights, "--labels", labels, "--stem", "small",
           "--input-size", SIDE, "--resize", SIDE, "--output", model)  # fmt: skip
    export("verify", model, "--weights", weights)
    return model


def test_a_trained_network_keeps_its_held_out_accuracy_to_the_image(digits, digits_model):
    """Each held-out image gets the same label over HTTP as from PyTorch."""
    expected = digits.predictions()
    accuracy = (expected == digits.labels).mean()
    assert accuracy > 0.9, "the network has learnt something"

    with serving("--models", digits_model.parent.parent) as server, client_of(server) as client:
        answered = []
        for start in range(0, len(digits.images), 20):
            files = [
                ("files", encode(Image.fromarray(pixels)))
                for pixels in digits.images[start : start + 20]
            ]
            body = client.post("/v1/classify?top_k=1", files=files).json()
            assert (body["model"], body["version"]) == ("digits", 3)
            answered += [result["labels"][0]["index"] for result in body["results"]]
    assert answered == expected.tolist()


@pytest.mark.full
@pytest.mark.parametrize("architecture", ["resnet50", "resnet101"])
def test_full_size_networks_are_served_beside_the_built_in_model(architecture, tmp_path):
    """ImageNet's 1000 classes are built in; random weights are enough here."""
    torch.manual_seed(0)
    network = build(architecture)
    weights, model = tmp_path / "weights.pth", tmp_path / "models" / f"{architecture}.onnx"
    torch.save(network.state_dict(), weights)
    export("export", architecture, "--weights", weights, "--output", model, "--max-batch", 4)
    export("verify", model, "--weights", weights)
    with (
        serving("--models", tmp_path / "models", "--builtin", "--max-batch", 2) as server,
        client_of(server) as client,
    ):
        server.wait_for("model_ready")
        photo = encode(Image.effect_mandelbrot((640, 480), (-2, -1, 1, 1), 50), "JPEG")
        for name, classes in ((architecture, 1000), ("slim-resnet50", 200)):
            response = client.post(f"/v1/classify?model={name}&top_k={classes}", content=photo)
            labels = response.json()["results"][0]["labels"]
            assert len({label["id"] for label in labels}) == classes
            assert sum(label["probability"] for label in labels) == pytest.approx(1, abs=1e-3)
