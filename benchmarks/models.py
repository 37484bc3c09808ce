"""Makes the model files that the benchmarks need, with random weights.

    python benchmarks/models.py [--folder FOLDER] [--only NAME]... [--force]

`light` is the built-in model's architecture at half its width: a ResNet-50 of base width 16 for
64 x 64 pixels, so light that the service's own overhead dominates. `resnet50` is the full network
for 224 x 224 pixels in float32; torchvision's weights would be just as fast but need a download.
The names with `-fp16` are the same networks in half precision, for GPUs. All are made by
`resnet-export`: verified against PyTorch, with a contract and golden cases.

Existing files are kept; the weights depend only on the seed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from safetensors.torch import save_file

from model_export.architectures import Stem
from model_export.architectures.build import build
from model_export.architectures.resnet import ResNet
from model_export.cli import main as resnet_export
from service.golden import golden_pattern

FOLDER = Path(__file__).with_name("models")

_CALIBRATION_IMAGES = 8
_LOGITS_SPREAD = 1.0
"""Standard deviation of a logit over images; more would make rounding in float32 show as well."""
_SEED = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """A model file to make: `side` is the input's in pixels, `base_width` the first stage's."""

    architecture: str
    base_width: int
    stem: Stem
    side: int
    resize: int
    classes: int
    precision: str = "fp32"


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "light": Recipe("resnet50", 16, "small", side=64, resize=64, classes=200),
        "resnet50": Recipe("resnet50", 64, "imagenet", side=224, resize=256, classes=1000),
        "light-fp16": Recipe(
            "resnet50", 16, "small", side=64, resize=64, classes=200, precision="fp16"
        ),
        "resnet50-fp16": Recipe(
            "resnet50", 64, "imagenet", side=224, resize=256, classes=1000, precision="fp16"
        ),
    }
)
"""The files by name; each becomes NAME.onnx."""


def random_network(recipe: Recipe, seed: int = _SEED) -> ResNet:
    """Build a network of random weights that tells images apart.

    Its batch normalisations get the statistics of formula images, and its classifier is set so that
    the logits vary with the image and not with the class alone. Without the one, the activations of
    random weights grow from block to block; without the other, every image has the same label, and
    an answer given to the wrong request would not be noticed.
    """
    torch.manual_seed(seed)
    network = build(
        recipe.architecture, classes=recipe.classes, width=recipe.base_width, stem=recipe.stem
    )
    assert isinstance(network, ResNet)  # noqa: S101 - the recipes are of such
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average
            torch.nn.init.uniform_(module.weight, 0.1, 0.4)  # blocks add little to their shortcut
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    images = np.stack([golden_pattern(i, recipe.side) for i in range(_CALIBRATION_IMAGES)])
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    pixels = pixels.sub(116).div(58)  # about ImageNet's mean and standard deviation
    with torch.no_grad():
        network.train()(pixels)
        logits = network.eval()(pixels)
        network.fc.weight *= _LOGITS_SPREAD / (logits - logits.mean(dim=0)).std()
        network.fc.bias.zero_()
        network.fc.bias.sub_(network(pixels).mean(dim=0))
    return network


def make_model(name: str, recipe: Recipe, folder: Path) -> Path:
    """Export a network of random weights as `folder`/`name`.onnx and give that path.

    Raises `RuntimeError` when `resnet-export` refuses; it has printed why.
    """
    output = folder / f"{name}.onnx"
    with tempfile.TemporaryDirectory() as scratch:
        weights, labels = Path(scratch, f"{name}.safetensors"), Path(scratch, "labels.txt")
        state = random_network(recipe).state_dict()
        save_file({key: value.contiguous() for key, value in state.items()}, weights)
        # Random weights know no koala, so the labels say nothing either.
        labels.write_text("".join(f"class-{i:04}\n" for i in range(recipe.classes)), "utf-8")
        status = resnet_export(
            [
                "export", recipe.architecture, "--weights", str(weights), "--labels", str(labels),
                "--stem", recipe.stem, "--input-size", str(recipe.side),
                "--resize", str(recipe.resize), "--source-note", f"random, seed {_SEED}",
                # Labels of random weights lie close together: how many agree says nothing.
                *([] if recipe.precision == "fp32" else ["--min-agreement", "0"]),
                "--precision", recipe.precision, "--output", str(output),
            ]
        )  # fmt: skip
    if status != 0:
        raise RuntimeError(f"{output}: resnet-export ended with status {status}")
    return output


def main() -> None:
    """Make what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="[%(default)s]")
    parser.add_argument(
        "--only", action="append", choices=RECIPES, help="make only this file; may be repeated"
    )
    parser.add_argument("--force", action="store_true", help="also remake existing files")
    arguments = parser.parse_args()
    for name in arguments.only or RECIPES:
        path = arguments.folder / f"{name}.onnx"
        if path.exists() and not arguments.force:
            print(f"{path}: is there")
        else:
            try:
                make_model(name, RECIPES[name], arguments.folder)
            except RuntimeError as error:
                raise SystemExit(f"models: error: {error}") from error


if __name__ == "__main__":
    main()
