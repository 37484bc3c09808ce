"""The networks are torchvision's: names, shapes and sizes."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from model_export.architectures import Residual, Stem
from model_export.architectures.build import build
from model_export.architectures.classifier import pool
from model_export.architectures.resnet import ResNet

# Parameters as torchvision documents them, entries of its state_dict, width of the embedding.
TORCHVISION = {
    "resnet18": (11_689_512, 122, 512),
    "resnet34": (21_797_672, 218, 512),
    "resnet50": (25_557_032, 320, 2048),
    "resnet101": (44_549_160, 626, 2048),
    "resnet152": (60_192_808, 932, 2048),
}


def full_size(name: str) -> ResNet:
    with torch.device("meta"):  # shapes only
        return cast("ResNet", build(name))


def torchvision_names(convolutions: int, depths: tuple[int, ...], *, first_projects: bool) -> set:
    """The names by torchvision's scheme, written down apart from the module."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight", "fc.weight", "fc.bias"} | {f"bn1.{part}" for part in norm}
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            prefix = f"layer{stage}.{block}"
            for index in range(1, convolutions + 1):
                names |= {f"{prefix}.conv{index}.weight"}
                names |= {f"{prefix}.bn{index}.{part}" for part in norm}
            if block == 0 and (stage > 1 or first_projects):
                names |= {f"{prefix}.downsample.0.weight"}
                names |= {f"{prefix}.downsample.1.{part}" for part in norm}
    return names


@pytest.mark.parametrize("name", TORCHVISION)
def test_size_is_torchvisions(name: str):
    """Parameters, state_dict entries and embedding width are the published ones."""
    parameters, entries, width = TORCHVISION[name]
    network = full_size(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert len(network.state_dict()) == entries
    assert network.fc.in_features == width


@pytest.mark.parametrize(
    ("name", "convolutions", "depths"),
    [
        ("resnet18", 2, (2, 2, 2, 2)),
        ("resnet34", 2, (3, 4, 6, 3)),
        ("resnet50", 3, (3, 4, 6, 3)),
        ("resnet101", 3, (3, 4, 23, 3)),
        ("resnet152", 3, (3, 8, 36, 3)),
    ],
)
def test_parameter_names_are_torchvisions(name: str, convolutions: int, depths: tuple[int, ...]):
    """So that its checkpoints load unchanged."""
    expected = torchvision_names(convolutions, depths, first_projects=convolutions == 3)
    assert set(full_size(name).state_dict()) == expected


@pytest.mark.parametrize(
    ("name", "parameter", "shape"),
    [
        ("resnet18", "conv1.weight", (64, 3, 7, 7)),
        ("resnet18", "layer2.0.conv1.weight", (128, 64, 3, 3)),
        ("resnet18", "layer2.0.downsample.0.weight", (128, 64, 1, 1)),
        ("resnet34", "layer4.2.conv2.weight", (512, 512, 3, 3)),
        ("resnet50", "layer1.0.downsample.0.weight", (256, 64, 1, 1)),
        ("resnet50", "layer1.1.conv1.weight", (64, 256, 1, 1)),
        ("resnet50", "layer4.0.conv2.weight", (512, 512, 3, 3)),
        ("resnet50", "fc.weight", (1000, 2048)),
        ("resnet101", "layer3.22.conv3.weight", (1024, 256, 1, 1)),
        ("resnet152", "layer2.7.bn3.running_var", (512,)),
    ],
)
def test_parameter_shapes_are_torchvisions(name: str, parameter: str, shape: tuple[int, ...]):
    """Spot checks in each network."""
    assert full_size(name).state_dict()[parameter].shape == shape


def test_bottlenecks_stride_at_their_3x3_convolution():
    """Known as v1.5; with v1's stride torchvision's weights load and answer wrongly."""
    block = full_size("resnet50").layer3[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


@pytest.mark.parametrize(
    ("stem", "side", "positions"), [("imagenet", 224, 7), ("small", 64, 4), ("small", 32, 2)]
)
def test_stem_decides_the_size_of_the_feature_map(stem: Stem, side: int, positions: int):
    """The ImageNet stem divides by 4, the small one by 2; the stages by 8."""
    spec = Residual("bottleneck", (1, 1, 1, 1))
    network = ResNet(spec, classes=10, base_width=8, stem=stem).eval()
    with torch.inference_mode():
        features = network.feature_map(torch.zeros(2, 3, side, side))
        assert features.shape == (2, 256, positions, positions)
        assert pool(features).shape == (2, 256)
        assert network(torch.zeros(2, 3, side, side)).shape == (2, 10)
