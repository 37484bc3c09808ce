"""Residual networks with torchvision's parameter names, so that its checkpoints load unchanged.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385;
in bottlenecks the stride is on the 3x3 convolution (known as v1.5), as in torchvision. ResNeXt:
https://arxiv.org/abs/1611.05431. Wide: https://arxiv.org/abs/1605.07146. Dilated:
https://arxiv.org/abs/1705.09914. Deep stem and averaged shortcuts (ResNet-D):
https://arxiv.org/abs/1812.01187. ResNeSt: see `split_attention`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_export.architectures import BASE_WIDTH, BlockKind, Residual, Stem
from model_export.architectures.attention import attention_of
from model_export.architectures.classifier import FeatureClassifier
from model_export.architectures.layers import ResidualBlock, conv3x3, downsample, separable3x3
from model_export.architectures.split_attention import SplitAttentionBottleneck


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(
        self, channels_in: int, planes: int, stride: int, dilation: int, spec: Residual
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, planes, stride, dilation)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes, 1, dilation)
        self.bn2 = nn.BatchNorm2d(planes)
        self.se = attention_of(spec.attention, planes)
        self.downsample = downsample(channels_in, planes, stride, average=spec.average_down)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Return the normalisation before the sum."""
        return self.bn2

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, h, w] to [N, planes, h / stride, w / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.se is not None:
            y = self.se(y)
        return torch.relu(y + shortcut)


class Bottleneck(ResidualBlock):
    """A 3x3 convolution between two 1x1 ones, and a shortcut; the output is 4 x `planes` wide."""

    expansion = 4

    def __init__(
        self, channels_in: int, planes: int, stride: int, dilation: int, spec: Residual
    ) -> None:
        super().__init__()
        width = planes * spec.width_per_group // BASE_WIDTH * spec.groups
        channels_out = planes * self.expansion
        self.conv1 = nn.Conv2d(channels_in, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = (
            separable3x3(width, stride, dilation)
            if spec.separable
            else conv3x3(width, width, stride, dilation, spec.groups)
        )
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels_out, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.se = attention_of(spec.attention, channels_out)
        self.downsample = downsample(channels_in, channels_out, stride, average=spec.average_down)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Return the normalisation before the sum."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, h, w] to [N, 4 x planes, h / stride, w / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.se is not None:
            y = self.se(y)
        return torch.relu(y + shortcut)


_BLOCKS: dict[BlockKind, type[BasicBlock | Bottleneck | SplitAttentionBottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "split-attention": SplitAttentionBottleneck,
}


class ResNet(FeatureClassifier):
    """A residual network: stem, four stages, average pooling, one linear classifier `fc`.

    `base_width` is the number of channels after the stem. The first stage has as many planes (fewer
    if the spec has a wider stem), and each later one twice as many as the one before. The
    "imagenet" stem divides the image's sides by 4 (7x7 convolution, max pooling), as does the
    "deep" one (three 3x3 convolutions, max pooling); the "small" one divides them by 2 (3x3
    convolution with stride 2), for images of 32 to 64 pixels.
    """

    def __init__(
        self, spec: Residual, *, classes: int, base_width: int = BASE_WIDTH, stem: Stem
    ) -> None:
        super().__init__()
        self.conv1 = _stem(stem, base_width)
        self.bn1 = nn.BatchNorm2d(base_width)
        self.maxpool = nn.Identity() if stem == "small" else nn.MaxPool2d(3, 2, 1)
        kind, channels, dilation = _BLOCKS[spec.block], base_width, 1
        first_planes = base_width * BASE_WIDTH // spec.width
        stages = []
        for index, depth in enumerate(spec.depths):
            planes = first_planes * 2**index
            stride, dilation_before = (1 if index == 0 else 2), dilation
            if index in spec.dilated:
                stride, dilation = 1, dilation * stride
            blocks = [kind(channels, planes, stride, dilation_before, spec)]
            channels = planes * kind.expansion
            blocks += [kind(channels, planes, 1, dilation, spec) for _ in range(depth - 1)]
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels, classes)
        self._initialise()

    @property
    def first_convolution(self) -> nn.Conv2d:
        """Return the convolution that takes the image."""
        first = self.conv1[0] if isinstance(self.conv1, nn.Sequential) else self.conv1
        assert isinstance(first, nn.Conv2d)  # noqa: S101 - as `_stem` makes it
        return first

    @property
    def linear(self) -> nn.Linear:
        """Return the classifier."""
        return self.fc

    def feature_map(self, x: Tensor) -> Tensor:
        """Map normalised RGB [N, 3, H, W] to the last feature map [N, D, h, w]."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        """Initialise weights as in the paper (https://arxiv.org/abs/1502.01852)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stem(kind: Stem, width: int) -> nn.Conv2d | nn.Sequential:
    """Return the stem up to its last convolution; a deep one has half the width inside."""
    if kind != "deep":
        kernel = 7 if kind == "imagenet" else 3
        return nn.Conv2d(3, width, kernel, stride=2, padding=kernel // 2, bias=False)
    inner = width // 2
    return nn.Sequential(
        conv3x3(3, inner, 2),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        conv3x3(inner, inner, 1),
        nn.BatchNorm2d(inner),
        nn.ReLU(),
        conv3x3(inner, width, 1),
    )
