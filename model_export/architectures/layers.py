"""Layers that several kinds of residual block share."""

from __future__ import annotations

from torch import nn


def conv3x3(
    channels_in: int, channels_out: int, stride: int, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Return a 3x3 convolution without bias that divides both sides by `stride`."""
    return nn.Conv2d(
        channels_in,
        channels_out,
        kernel_size=3,
        stride=stride,
        padding=dilation,
        dilation=dilation,
        groups=groups,
        bias=False,
    )


def downsample(
    channels_in: int, channels_out: int, stride: int, *, average: bool
) -> nn.Sequential | None:
    """Return a projection for the shortcut if the block changes the shape, otherwise None."""
    if stride == 1 and channels_in == channels_out:
        return None
    if not average:
        return nn.Sequential(
            nn.Conv2d(channels_in, channels_out, kernel_size=1, stride=stride, bias=False),
            nn.BatchNorm2d(channels_out),
        )
    return nn.Sequential(
        nn.Identity() if stride == 1 else smaller(stride),
        nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False),
        nn.BatchNorm2d(channels_out),
    )


def smaller(stride: int) -> nn.AvgPool2d:
    """Return the average over 2x2 pixels that a shortcut takes before its 1x1 convolution."""
    return nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)


def make_divisible(channels: float, *, least: int = 8) -> int:
    """Round to a multiple of 8, half up, but not to less than 90 % of the value or than `least`.

    As torchvision and timm do it, from the first implementation of MobileNet.
    """
    rounded = max(least, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
