"""Residual networks of depthwise separable convolutions, with torchvision's parameter names.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
https://arxiv.org/abs/1801.04381. Howard et al., "Searching for MobileNetV3",
https://arxiv.org/abs/1905.02244.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.functional import hardsigmoid

from model_export.architectures import MobileV2, MobileV3
from model_export.architectures.attention import SqueezeExcitation
from model_export.architectures.classifier import FeatureClassifier, FoldableClassifier, pool
from model_export.architectures.layers import make_divisible

_REDUCTION_V3 = 4  # of channels inside squeeze-and-excitation
_DROPPED = 0.2  # of the classifier's inputs, in training


class _Stage(NamedTuple):
    """Version 2's blocks of the same width; the first of them has the stride."""

    expansion: int  # of channels inside each block
    channels: int
    depth: int
    stride: int


_STAGES = tuple(
    _Stage(*row)
    for row in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
                (6, 160, 3, 2), (6, 320, 1, 1))
)  # fmt: skip
_LAST_V2 = 1280


class _Block(NamedTuple):
    """A block of version 3: without `hard_swish` its activations are ReLU."""

    kernel: int
    expanded: int  # channels inside
    channels: int
    attention: bool
    hard_swish: bool
    stride: int


_BLOCKS_LARGE = tuple(
    _Block(*row)
    for row in (
        (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2), (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1), (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
    )
)  # fmt: skip
_EXPANSION_LAST, _LAST_V3 = 6, 1280


class InvertedResidual(nn.Module):
    """A block of version 2: wider inside than outside, with a shortcut if the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_conv_norm(channels_in, inner, 1, nn.ReLU6))
        layers += [
            _conv_norm(inner, inner, 3, nn.ReLU6, stride=stride, groups=inner),
            nn.Conv2d(inner, channels_out, kernel_size=1, bias=False),
            nn.BatchNorm2d(channels_out),
        ]
        self.conv = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, h, w] to [N, channels_out, h / stride, w / stride]."""
        y: Tensor = self.conv(x)
        return x + y if self.has_shortcut else y


class MobileNetV2(FeatureClassifier):
    """A convolution, inverted residual blocks, a 1x1 convolution and one linear layer.

    `width` is the number of channels after the first convolution. Others are proportional to it,
    rounded as in torchvision, except that the last feature map never has less than 1280.
    """

    def __init__(self, *, classes: int, width: int) -> None:
        super().__init__()
        factor = width / MobileV2.width
        channels = width
        layers: list[nn.Module] = [_conv_norm(3, channels, 3, nn.ReLU6, stride=2)]
        for stage in _STAGES:
            for index in range(stage.depth):
                before, channels = channels, make_divisible(stage.channels * factor)
                stride = stage.stride if index == 0 else 1
                layers.append(InvertedResidual(before, channels, stage.expansion, stride))
        last = make_divisible(_LAST_V2 * max(1, factor))
        layers.append(_conv_norm(channels, last, 1, nn.ReLU6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(_DROPPED), nn.Linear(last, classes))
        _initialise(self)

    @property
    def first_convolution(self) -> nn.Conv2d:
        """Return the convolution that takes the image."""
        return _first_of(self.features)

    @property
    def linear(self) -> nn.Linear:
        """Return the classifier."""
        linear = self.classifier[-1]
        assert isinstance(linear, nn.Linear)  # noqa: S101 - as it is made above
        return linear

    def feature_map(self, x: Tensor) -> Tensor:
        """Map normalised RGB [N, 3, H, W] to the last feature map [N, D, h, w]."""
        return self.features(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised RGB [N, 3, H, W] to logits [N, classes], in training with dropout."""
        return self.classifier(pool(self.feature_map(x)))  # type: ignore[no-any-return]


class InvertedResidualV3(nn.Module):
    """A block of version 3, whose width inside is its own and which may have attention."""

    def __init__(self, channels_in: int, spec: _Block, factor: float) -> None:
        super().__init__()
        inner, channels_out = (make_divisible(c * factor) for c in (spec.expanded, spec.channels))
        activation = nn.Hardswish if spec.hard_swish else nn.ReLU
        layers: list[nn.Module] = []
        if inner != channels_in:
            layers.append(_conv_norm(channels_in, inner, 1, activation, norm=_norm_v3))
        layers.append(
            _conv_norm(
                inner,
                inner,
                spec.kernel,
                activation,
                stride=spec.stride,
                groups=inner,
                norm=_norm_v3,
            )
        )
        if spec.attention:
            reduced = make_divisible(inner // _REDUCTION_V3)
            layers.append(SqueezeExcitation(inner, reduced, gate=hardsigmoid))
        layers.append(_conv_norm(inner, channels_out, 1, None, norm=_norm_v3))
        self.block = nn.Sequential(*layers)
        self.has_shortcut = spec.stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, h, w] to [N, channels_out, h / stride, w / stride]."""
        y: Tensor = self.block(x)
        return x + y if self.has_shortcut else y


class MobileNetV3(FoldableClassifier):
    """The large MobileNetV3: its classifier has two linear layers, after the average.

    `width` is the number of channels after the first convolution; others are proportional to it,
    rounded as in torchvision.
    """

    def __init__(self, *, classes: int, width: int) -> None:
        super().__init__()
        factor = width / MobileV3.width
        channels = width
        layers: list[nn.Module] = [_conv_norm(3, width, 3, nn.Hardswish, stride=2, norm=_norm_v3)]
        for spec in _BLOCKS_LARGE:
            layers.append(InvertedResidualV3(channels, spec, factor))
            channels = make_divisible(spec.channels * factor)
        features, hidden = _EXPANSION_LAST * channels, make_divisible(_LAST_V3 * factor)
        layers.append(_conv_norm(channels, features, 1, nn.Hardswish, norm=_norm_v3))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(features, hidden),
            nn.Hardswish(),
            nn.Dropout(_DROPPED),
            nn.Linear(hidden, classes),
        )
        _initialise(self)

    @property
    def first_convolution(self) -> nn.Conv2d:
        """Return the convolution that takes the image."""
        return _first_of(self.features)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised RGB [N, 3, H, W] to logits [N, classes]."""
        return self.classifier(pool(self.features(x)))  # type: ignore[no-any-return]


def _norm_v3(channels: int) -> nn.BatchNorm2d:
    # Torchvision's momentum of 0.01 needs thousands of steps, which few folders of photos give.
    return nn.BatchNorm2d(channels, eps=1e-3)


def _conv_norm(
    channels_in: int,
    channels_out: int,
    kernel: int,
    activation: Callable[[], nn.Module] | None,
    *,
    stride: int = 1,
    groups: int = 1,
    norm: Callable[[int], nn.BatchNorm2d] = nn.BatchNorm2d,
) -> nn.Sequential:
    """Return a convolution, its batch normalisation and possibly an activation."""
    convolution = nn.Conv2d(
        channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False
    )
    layers = [convolution, norm(channels_out), *([activation()] if activation else [])]
    return nn.Sequential(*layers)


def _first_of(features: nn.Sequential) -> nn.Conv2d:
    first = features.get_submodule("0.0")
    assert isinstance(first, nn.Conv2d)  # noqa: S101 - as `_conv_norm` makes it
    return first


def _initialise(network: nn.Module) -> None:
    """Initialise weights as torchvision does."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
