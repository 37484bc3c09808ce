"""Residual networks with self-attention in place of some convolutions, with timm's parameter names.

Srinivas et al., "Bottleneck Transformers for Visual Recognition", https://arxiv.org/abs/2101.11605,
in timm's variants with a tiered stem.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from model_export.architectures import Bot
from model_export.architectures.attention import ConvNorm
from model_export.architectures.classifier import FeatureClassifier
from model_export.architectures.layers import ResidualBlock
from model_export.errors import OptionsError

_HEADS = 4
_EXPANSION = 4
_STRIDE = 32  # of the whole network
_TIERS = 8  # the stem's first convolution has three of them, its second four


class RelativePositions(nn.Module):
    """What a query adds to its products with keys, by their distance in each direction."""

    def __init__(self, side: int, features: int) -> None:
        super().__init__()
        self.side = side
        self.height_rel = nn.Parameter(torch.empty(2 * side - 1, features))
        self.width_rel = nn.Parameter(torch.empty(2 * side - 1, features))
        for table in self.parameters():
            nn.init.trunc_normal_(table, std=features**-0.5)

    def forward(self, queries: Tensor) -> Tensor:
        """Map queries [M, side x side, features] to logits [M, side x side, side x side]."""
        side = self.side
        places = queries.reshape(-1, side, side, queries.shape[-1])
        across = self._logits(places, self.width_rel).unsqueeze(3)
        down = self._logits(places.transpose(1, 2), self.height_rel).permute(0, 2, 1, 3)
        logits = down.unsqueeze(4) + across  # [M, row, column, key's row, key's column]
        return logits.reshape(-1, side * side, side * side)

    def _logits(self, queries: Tensor, table: Tensor) -> Tensor:
        """Map queries [M, side, side, features] to [M, side, side, side], by the key's place.

        Row d + side - 1 of the table is for keys d places after the query. A query's products with
        all rows are moved, by padding, one place further than those of the query before it.
        """
        side = self.side
        products = (queries @ table.transpose(0, 1)).reshape(-1, side, 2 * side - 1)
        shifted = pad(pad(products, (0, 1)).flatten(1), (0, side - 1))
        by_place = shifted.reshape(-1, side + 1, 2 * side - 1)[:, :side, side - 1 :]
        return by_place.reshape(-1, side, side, side)


class SelfAttention(nn.Module):
    """Each position takes from all others what its query finds, in four heads.

    With a stride, 2x2 positions are averaged afterwards.
    """

    def __init__(self, channels: int, side: int, stride: int) -> None:
        super().__init__()
        self.features = channels // _HEADS
        self.qkv = nn.Conv2d(channels, 3 * channels, kernel_size=1, bias=False)
        self.pos_embed = RelativePositions(side, self.features)
        self.pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, C, side, side] to [N, C, side / stride, side / stride]."""
        parts = self.qkv(x).chunk(3, dim=1)
        queries, keys, values = (part.reshape(-1, self.features, self.positions) for part in parts)
        queries = queries.transpose(1, 2)
        logits = (queries @ keys) * self.features**-0.5 + self.pos_embed(queries)
        found = torch.softmax(logits, dim=-1) @ values.transpose(1, 2)
        return self.pool(found.transpose(1, 2).reshape(x.shape))  # type: ignore[no-any-return]

    @property
    def positions(self) -> int:
        """Return the number of positions of the feature map."""
        return self.pos_embed.side**2


class BotBlock(ResidualBlock):
    """A 3x3 convolution or self-attention between two 1x1 convolutions, and a shortcut.

    `side` is that of the feature map that it attends to, or None for a convolution.
    """

    def __init__(
        self, channels_in: int, planes: int, stride: int, side: int | None, activation: nn.Module
    ) -> None:
        super().__init__()
        channels_out = planes * _EXPANSION
        same = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same else ConvNorm(channels_in, channels_out, 1, stride)
        self.conv1_1x1 = ConvNorm(channels_in, planes, 1)
        self.attends = side is not None
        if side is not None:
            self.self_attn = SelfAttention(planes, side, stride)
            self.post_attn = nn.BatchNorm2d(planes)
        else:
            self.conv2_kxk = ConvNorm(planes, planes, 3, stride)
        self.conv3_1x1 = ConvNorm(planes, channels_out, 1)
        self.activation = activation

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """Return the normalisation before the sum."""
        return self.conv3_1x1.bn

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, channels_in, h, w] to [N, 4 x planes, h / stride, w / stride]."""
        y = self.activation(self.conv1_1x1(x))
        y = self.post_attn(self.self_attn(y)) if self.attends else self.conv2_kxk(y)
        y = self.conv3_1x1(self.activation(y))
        return self.activation(y + self.shortcut(x))  # type: ignore[no-any-return]


class BotNet(FeatureClassifier):
    """Stem, four stages, average pooling, one linear classifier `head.fc`.

    It takes images of `side` pixels only, since each attention has parameters for the distances in
    its feature map. Raises `OptionsError` if its layers can't divide the side or the width evenly.
    """

    def __init__(self, spec: Bot, *, classes: int, width: int, side: int) -> None:
        super().__init__()
        if side % _STRIDE:
            raise OptionsError(f"input size {side}: a BoTNet's is a multiple of {_STRIDE}")
        if width % _TIERS:
            raise OptionsError(f"width {width}: a BoTNet's is a multiple of {_TIERS}")
        self.side = side
        self.activation = nn.SiLU() if spec.activation == "silu" else nn.ReLU()
        tiers = (3, 3 * width // _TIERS, width // 2, width)
        convolutions = [ConvNorm(tiers[i], tiers[i + 1], 3, 2 if i == 0 else 1) for i in range(3)]
        self.stem = nn.ModuleDict({f"conv{i + 1}": conv for i, conv in enumerate(convolutions)})
        self.pool = nn.MaxPool2d(3, 2, 1)
        stages, channels, side = [], width, side // 4
        for index, kinds in enumerate(spec.stages):
            planes, blocks = width * 2**index, []
            for place, kind in enumerate(kinds):
                stride = 2 if index > 0 and place == 0 else 1
                attends = side if kind == "a" else None
                blocks.append(BotBlock(channels, planes, stride, attends, self.activation))
                channels, side = planes * _EXPANSION, side // stride
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(OrderedDict(fc=nn.Linear(channels, classes)))
        self._initialise()

    @property
    def first_convolution(self) -> nn.Conv2d:
        """Return the convolution that takes the image."""
        first = self.get_submodule("stem.conv1.conv")
        assert isinstance(first, nn.Conv2d)  # noqa: S101 - as it is made above
        return first

    @property
    def linear(self) -> nn.Linear:
        """Return the classifier."""
        linear = self.get_submodule("head.fc")
        assert isinstance(linear, nn.Linear)  # noqa: S101 - as it is made above
        return linear

    def feature_map(self, x: Tensor) -> Tensor:
        """Map normalised RGB [N, 3, side, side] to the last feature map [N, D, h, w]."""
        for convolution in self.stem.values():
            x = self.activation(convolution(x))
        return self.stages(self.pool(x))  # type: ignore[no-any-return]

    def _initialise(self) -> None:
        """Initialise weights as timm does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, SelfAttention):
                nn.init.trunc_normal_(module.qkv.weight, std=module.qkv.in_channels**-0.5)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
