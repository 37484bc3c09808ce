"""Networks with random weights and plausible answers, and their checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from model_export.architectures import ARCHITECTURES, Dense, Residual, Stem
from model_export.architectures.build import build
from service.contract import Preprocessing
from service.golden import golden_pattern

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def random_network(
    architecture: str = "resnet18",
    *,
    classes: int = 5,
    base_width: int = 8,
    stem: Stem | None = "small",
    side: int = 32,
    depths: tuple[int, int, int, int] | None = None,
) -> Any:
    """Return a network whose batch normalisations have the statistics of generated images.

    Without them the activations of random weights grow from block to block, and every image gets
    the same label with probability 1. With `depths` it has other numbers of blocks than its name
    says: PyTorch's exporter takes a tenth of a second for each layer. Tests take layers by name.
    """
    torch.manual_seed(0)
    spec = ARCHITECTURES[architecture]
    if depths is not None:
        assert isinstance(spec, (Residual, Dense))
        spec = replace(spec, depths=depths)
    known = {architecture: spec}
    with mock.patch("model_export.architectures.build.ARCHITECTURES", known):
        network = build(architecture, classes=classes, width=base_width, stem=stem, side=side)
    if architecture in {"alexnet", "mobilenet_v3_large"}:
        # Between their linear layers there is no normalisation that would keep signals up.
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.kaiming_normal_(module.weight)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average
            # Blocks that add much to their shortcut would let rounding grow from one to the next.
            torch.nn.init.uniform_(module.weight, 0.2, 0.8)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    with torch.no_grad():
        network.train()(normalised(patterns(8, side)))
    return network.eval()


def patterns(count: int, side: int) -> np.ndarray:
    """Return generated images, uint8 [count, side, side, 3]."""
    return np.stack([golden_pattern(seed, side) for seed in range(count)])


def normalised(images: np.ndarray) -> torch.Tensor:
    """Return the result of torchvision's ToTensor and Normalize: float32 [N, 3, H, W]."""
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def preprocessing(side: int = 32) -> Preprocessing:
    return Preprocessing(resize=side, crop=side, interpolation="bilinear", mean=MEAN, std=STD)


def save_checkpoint(network: torch.nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path
