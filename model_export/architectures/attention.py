"""Attention over channels and positions, with timm's parameter names."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from model_export.architectures import Attention

_REDUCTION = 16
_SE_DIVISOR = 8


class SqueezeExcitation(nn.Module):
    """Weight each channel by the averages of all channels.

    Hu, Shen, Sun, "Squeeze-and-Excitation Networks", https://arxiv.org/abs/1709.01507. By default,
    `reduced` is a sixteenth of the channels, in steps of 8.
    """

    def __init__(
        self,
        channels: int,
        reduced: int | None = None,
        *,
        gate: Callable[[Tensor], Tensor] = torch.sigmoid,
    ) -> None:
        super().__init__()
        if reduced is None:
            eighths = round_half_up(channels / _REDUCTION / _SE_DIVISOR)
            reduced = max(_SE_DIVISOR, eighths * _SE_DIVISOR)
        self.gate = gate
        self.fc1 = nn.Conv2d(channels, reduced, kernel_size=1)
        self.fc2 = nn.Conv2d(reduced, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, h, w] to the same shape."""
        squeezed = x.mean(dim=(2, 3), keepdim=True)
        return x * self.gate(self.fc2(torch.relu(self.fc1(squeezed))))


class ChannelAttention(nn.Module):
    """Weight each channel by the averages and maxima of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        reduced = max(1, round_half_up(channels / _REDUCTION))
        self.fc1 = nn.Conv2d(channels, reduced, kernel_size=1, bias=False)
        self.fc2 = nn.Conv2d(reduced, channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, h, w] to the same shape."""
        average = self._excite(x.mean(dim=(2, 3), keepdim=True))
        return x * torch.sigmoid(average + self._excite(x.amax(dim=(2, 3), keepdim=True)))

    def _excite(self, squeezed: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(squeezed)))  # type: ignore[no-any-return]


class ConvNorm(nn.Module):
    """A convolution that divides both sides by `stride`, and its batch normalisation."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False
        )
        self.bn = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, h, w] to [N, channels_out, h / stride, w / stride]."""
        return self.bn(self.conv(x))  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """Weight each position by the average and maximum channel there and at its neighbours."""

    def __init__(self, kernel: int = 7) -> None:
        super().__init__()
        self.conv = ConvNorm(2, 1, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, h, w] to the same shape."""
        both = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(both))


class Cbam(nn.Module):
    """Weight channels, then positions.

    Woo, Park, Lee, Kweon, "CBAM: Convolutional Block Attention Module",
    https://arxiv.org/abs/1807.06521.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels)
        self.spatial = SpatialAttention()

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, h, w] to the same shape."""
        return self.spatial(self.channel(x))  # type: ignore[no-any-return]


class EfficientChannelAttention(nn.Module):
    """Weight each channel by the averages of itself and its neighbours.

    The more channels, the more neighbours. Wang et al., "ECA-Net: Efficient Channel Attention for
    Deep Convolutional Neural Networks", https://arxiv.org/abs/1910.03151.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = int((math.log2(channels) + 1) / 2)
        kernel = max(size if size % 2 else size + 1, 3)
        self.conv = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, h, w] to the same shape."""
        weights = torch.sigmoid(self.conv(x.mean(dim=(2, 3)).unsqueeze(1)))
        return x * weights.transpose(1, 2).unsqueeze(3)


_KINDS: dict[Attention, Callable[[int], nn.Module]] = {
    "se": SqueezeExcitation,
    "cbam": Cbam,
    "eca": EfficientChannelAttention,
}


def attention_of(kind: Attention | None, channels: int) -> nn.Module | None:
    """Return an attention module of that kind, or None for no attention."""
    return None if kind is None else _KINDS[kind](channels)


def round_half_up(value: float) -> int:
    """Round half up like timm; Python's `round` rounds to even."""
    return int(value + 0.5)
