"""Densely connected networks with torchvision's parameter names.

Huang, Liu, van der Maaten, Weinberger, "Densely Connected Convolutional Networks",
https://arxiv.org/abs/1608.06993.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from model_export.architectures import Dense
from model_export.architectures.classifier import FeatureClassifier

_BOTTLENECK = 4  # a layer's 1x1 convolution has this many times the channels that it adds


class DenseLayer(nn.Module):
    """Adds `growth` channels, computed from all previous ones in its block."""

    def __init__(self, channels_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, _BOTTLENECK * growth, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(_BOTTLENECK * growth)
        self.conv2 = nn.Conv2d(_BOTTLENECK * growth, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, h, w] to [N, channels_in + growth, h, w]."""
        y = self.conv1(torch.relu(self.norm1(x)))
        y = self.conv2(torch.relu(self.norm2(y)))
        return torch.cat([x, y], dim=1)


class DenseNet(FeatureClassifier):
    """Stem, four dense blocks with transitions between them, one linear `classifier`.

    `width` is the number of channels after the stem; the channels that a layer adds are
    proportional to it, as in the spec.
    """

    def __init__(self, spec: Dense, *, classes: int, width: int | None = None) -> None:
        super().__init__()
        channels = width or spec.width
        growth = spec.growth * channels // spec.width
        parts: list[tuple[str, nn.Module]] = [
            ("conv0", nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)),
            ("norm0", nn.BatchNorm2d(channels)),
            ("relu0", nn.ReLU()),
            ("pool0", nn.MaxPool2d(3, 2, 1)),
        ]
        for number, depth in enumerate(spec.depths, start=1):
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                (f"denselayer{i + 1}", DenseLayer(channels + i * growth, growth))
                for i in range(depth)
            )
            parts.append((f"denseblock{number}", nn.Sequential(layers)))
            channels += depth * growth
            if number < len(spec.depths):
                parts.append((f"transition{number}", _transition(channels)))
                channels //= 2
        parts.append(("norm5", nn.BatchNorm2d(channels)))
        self.features = nn.Sequential(OrderedDict(parts))
        self.classifier = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    @property
    def first_convolution(self) -> nn.Conv2d:
        """Return the convolution that takes the image."""
        first = self.features[0]
        assert isinstance(first, nn.Conv2d)  # noqa: S101 - as it is made above
        return first

    @property
    def linear(self) -> nn.Linear:
        """Return the classifier."""
        return self.classifier

    def feature_map(self, x: Tensor) -> Tensor:
        """Map normalised RGB [N, 3, H, W] to the last feature map [N, D, h, w]."""
        return torch.relu(self.features(x))


def _transition(channels: int) -> nn.Sequential:
    """Halve channels and sides."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(channels),
            relu=nn.ReLU(),
            conv=nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False),
            pool=nn.AvgPool2d(2, 2),
        )
    )
