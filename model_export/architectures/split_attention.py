"""Residual blocks with attention over split branches (ResNeSt), with timm's parameter names.

Zhang et al., "ResNeSt: Split-Attention Networks", https://arxiv.org/abs/2004.08955.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_export.architectures import Residual
from model_export.architectures.layers import ResidualBlock, conv3x3, downsample, make_divisible

_RADIX = 2  # branches
_REDUCTION, _LEAST = 4, 32  # of the branches' channels inside the attention


class SplitAttention(nn.Module):
    """A 3x3 convolution in two branches, and their sum, weighted for each channel."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        branches = channels * _RADIX
        reduced = make_divisible(branches / _REDUCTION, least=_LEAST)
        self.conv = conv3x3(channels, branches, 1, dilation, _RADIX)
        self.bn0 = nn.BatchNorm2d(branches)
        self.fc1 = nn.Conv2d(channels, reduced, kernel_size=1)
        self.bn1 = nn.BatchNorm2d(reduced)
        self.fc2 = nn.Conv2d(reduced, branches, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, h, w] to the same shape."""
        branches = _split(torch.relu(self.bn0(self.conv(x))))
        squeezed = branches.sum(dim=1).mean(dim=(2, 3), keepdim=True)
        logits = self.fc2(torch.relu(self.bn1(self.fc1(squeezed))))
        weights = torch.softmax(_split(logits), dim=1)
        return (branches * weights).sum(dim=1)


def _split(x: Tensor) -> Tensor:
    """Map [N, 2 x C, h, w] to [N, 2, C, h, w]."""
    return x.reshape(x.shape[0], _RADIX, x.shape[1] // _RADIX, *x.shape[2:])


class SplitAttentionBottleneck(ResidualBlock):
    """Split attention between two 1x1 convolutions, and a shortcut.

    Where the block reduces the resolution, it averages 3x3 pixels after the attention.
    """

    expansion = 4

    def __init__(
        self, channels_in: int, planes: int, stride: int, dilation: int, spec: Residual
    ) -> None:
        super().__init__()
        channels_out = planes * self.expansion
        self.conv1 = nn.Conv2d(channels_in, planes, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = SplitAttention(planes, dilation)
        self.smaller = nn.Identity() if stride == 1 else nn.AvgPool2d(3, stride, padding=1)
        self.conv3 = nn.Conv2d(planes, channels_out, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = downsample(channels_in, channels_out, stride, average=spec.average_down)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Return the normalisation before the sum."""
        return self.bn3

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, h, w] to [N, 4 x planes, h / stride, w / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.smaller(self.conv2(y))
        return torch.relu(self.bn3(self.conv3(y)) + shortcut)
