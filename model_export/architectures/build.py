"""Networks by the name of their architecture."""

from __future__ import annotations

from torch import nn

from model_export.architectures import ARCHITECTURES, Dense, Residual, Stem
from model_export.architectures.alexnet import AlexNet
from model_export.architectures.densenet import DenseNet
from model_export.architectures.resnet import ResNet
from model_export.errors import OptionsError


def build(
    architecture: str, *, classes: int = 1000, width: int | None = None, stem: Stem | None = None
) -> nn.Module:
    """Build a network with random weights.

    `width` is that of the stem's output: 64 unless said otherwise (DenseNet-161: 96), and all
    others are in proportion to it. Raises `OptionsError` for a stem that it can't have.
    """
    spec = ARCHITECTURES[architecture]
    if isinstance(spec, Residual):
        return ResNet(spec, classes=classes, base_width=width or 64, stem=stem or spec.stem)
    if stem not in {None, "imagenet"}:
        raise OptionsError(f"{architecture} has one stem only, so --stem {stem} can't be")
    if isinstance(spec, Dense):
        return DenseNet(spec, classes=classes, width=width)
    return AlexNet(classes=classes, width=width or 64)
