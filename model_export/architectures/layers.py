"""Layers that several kinds of residual block share."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


class ResidualBlock(nn.Module):
    """A block that adds something to its shortcut: at first nothing, when training from scratch."""

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Return the normalisation of what is added: with weights of 0, nothing is."""
        raise NotImplementedError


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


def separable3x3(channels: int, stride: int, dilation: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution of each channel alone, and a 1x1 convolution of all.

    With a stride of 1, it is dilated by twice `dilation`, so that it sees as far as a 5x5 one; with
    a stride of 2, that would leave out three of four pixels. No published network has just this.
    """
    if stride == 1:
        dilation *= 2
    depthwise = conv3x3(channels, channels, stride, dilation, channels)
    pointwise = nn.Conv2d(channels, channels, kernel_size=1, bias=False)
    return nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))


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
    smaller = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(
        nn.Identity() if stride == 1 else smaller,
        nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False),
        nn.BatchNorm2d(channels_out),
    )


def make_divisible(channels: float, *, least: int = 8) -> int:
    """Round to a multiple of 8, half up, but not to less than 90 % of the value or than `least`.

    As torchvision and timm do it, from the first implementation of MobileNet.
    """
    rounded = max(least, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
