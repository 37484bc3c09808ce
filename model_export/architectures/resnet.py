"""Residual networks with torchvision's parameter names, so that its checkpoints load unchanged.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", https://arxiv.org/abs/1512.03385;
in bottlenecks the stride is on the 3x3 convolution (known as v1.5), as in torchvision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_export.architectures import BlockKind, Stem


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = width * self.expansion
        self.conv1 = _conv3x3(channels_in, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, channels_out, 1)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample = _downsample(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, h, w] to [N, channels_out, h / stride, w / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + shortcut)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 ones, and a shortcut; the output is 4 times as wide."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        channels_out = width * self.expansion
        self.conv1 = nn.Conv2d(channels_in, width, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels_out, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = _downsample(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, h, w] to [N, channels_out, h / stride, w / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + shortcut)


_BLOCKS: dict[BlockKind, type[BasicBlock | Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


class ResNet(nn.Module):
    """A residual network: stem, four stages, average pooling, one linear classifier `fc`.

    `base_width` is the first stage's width, doubled by each later one. The "imagenet" stem divides
    the image's sides by 4 (7x7 convolution, max pooling), the "small" one by 2 (3x3 convolution of
    stride 2), which suits images of 32 to 64 pixels.
    """

    def __init__(
        self,
        block: BlockKind,
        depths: tuple[int, int, int, int],
        *,
        classes: int,
        base_width: int = 64,
        stem: Stem = "imagenet",
    ) -> None:
        super().__init__()
        kernel = 7 if stem == "imagenet" else 3
        self.conv1 = nn.Conv2d(3, base_width, kernel, stride=2, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(base_width)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        kind, channels = _BLOCKS[block], base_width
        stages = []
        for index, depth in enumerate(depths):
            width = base_width * 2**index
            blocks = []
            for position in range(depth):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(kind(channels, width, stride))
                channels = width * kind.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(channels, classes)
        self._initialise()

    def features(self, x: Tensor) -> Tensor:
        """Map normalised RGB [N, 3, H, W] to the last feature map [N, D, h, w]."""
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised RGB [N, 3, H, W] to logits [N, classes]."""
        return self.fc(pool(self.features(x)))  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        """Start as the paper's authors did (https://arxiv.org/abs/1502.01852)."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def pool(features: Tensor) -> Tensor:
    """Average a feature map [N, D, h, w] over its positions to an embedding [N, D]."""
    return features.mean(dim=(2, 3))


def _conv3x3(channels_in: int, channels_out: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


def _downsample(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    """Project the shortcut where the block changes the shape."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False),
        nn.BatchNorm2d(channels_out),
    )
