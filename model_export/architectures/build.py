"""Builds networks by the name of their architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from model_export.architectures import (
    ARCHITECTURES,
    Alex,
    Architecture,
    Bot,
    Dense,
    MobileV2,
    MobileV3,
    Residual,
    Stem,
)
from model_export.architectures.alexnet import AlexNet
from model_export.architectures.botnet import BotNet
from model_export.architectures.densenet import DenseNet
from model_export.architectures.mobilenet import MobileNetV2, MobileNetV3
from model_export.architectures.resnet import ResNet
from model_export.errors import OptionsError

_SINGLE: Mapping[type[Architecture], Callable[..., nn.Module]] = MappingProxyType(
    {Alex: AlexNet, MobileV2: MobileNetV2, MobileV3: MobileNetV3}
)
"""Networks that are made from a width and a number of classes alone."""


def build(
    architecture: str,
    *,
    classes: int = 1000,
    width: int | None = None,
    stem: Stem | None = None,
    side: int | None = None,
) -> nn.Module:
    """Build a network with random weights.

    `width` is the number of channels after the stem, by default the usual one; all other widths are
    proportional to it. `side` is that of the images; only the parameters of BoTNets depend on it.
    Raises `OptionsError` if the architecture can't have that stem or side.
    """
    spec = ARCHITECTURES[architecture]
    width = width or spec.width
    if isinstance(spec, Residual):
        return ResNet(spec, classes=classes, base_width=width, stem=stem or spec.stem)
    if stem not in {None, "imagenet"}:
        raise OptionsError(f"{architecture} has only one stem, so --stem {stem} is not possible")
    if isinstance(spec, Dense):
        return DenseNet(spec, classes=classes, width=width)
    if isinstance(spec, Bot):
        return BotNet(spec, classes=classes, width=width, side=side or spec.side)
    return _SINGLE[type(spec)](classes=classes, width=width)
