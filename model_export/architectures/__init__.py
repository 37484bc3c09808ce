"""The networks that can be built, by name.

Nothing here imports PyTorch, since the command line needs this table for its help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

BlockKind = Literal["basic", "bottleneck", "split-attention"]
Stem = Literal["imagenet", "deep", "small"]
Attention = Literal["se", "cbam", "eca"]

BASE_WIDTH = 64
"""The usual number of channels after the stem."""

# Each kind names the parameters whose first dimensions are the stem's width and the number of
# classes, so that a file's network can be built with the same sizes.


@dataclass(frozen=True, slots=True)
class Residual:
    """A residual network: its kind of block, and the number of blocks in each of four stages.

    `groups` and `width_per_group` describe a bottleneck's 3x3 convolution, the latter for the first
    stage of a network with base width 64. `dilated` stages (2 and 3 are the last two) keep their
    resolution and get the same receptive field by dilation. With `average_down`, a shortcut that
    reduces the resolution averages before its 1x1 convolution, so that no pixel is skipped. `width`
    is the number of channels after the stem; the first stage has base width 64 in any case. In a
    `separable` network, bottlenecks have a dilated depthwise separable 3x3 convolution.
    """

    width_parameter: ClassVar[str] = "bn1.weight"
    classes_parameter: ClassVar[str] = "fc.weight"

    block: BlockKind
    depths: tuple[int, int, int, int]
    groups: int = 1
    width_per_group: int = 64
    attention: Attention | None = None
    dilated: tuple[int, ...] = ()
    stem: Stem = "imagenet"
    average_down: bool = False
    width: int = BASE_WIDTH
    separable: bool = False


@dataclass(frozen=True, slots=True)
class Dense:
    """A densely connected network: layers in each of four blocks, channels added by each layer.

    `width` is the number of channels after the stem.
    """

    width_parameter: ClassVar[str] = "features.norm0.weight"
    classes_parameter: ClassVar[str] = "classifier.weight"

    depths: tuple[int, int, int, int]
    growth: int
    width: int


@dataclass(frozen=True, slots=True)
class Alex:
    """AlexNet, of which there is only one version; `width` is its first convolution's."""

    width_parameter: ClassVar[str] = "features.0.weight"
    classes_parameter: ClassVar[str] = "classifier.6.weight"
    width: ClassVar[int] = BASE_WIDTH


@dataclass(frozen=True, slots=True)
class MobileV2:
    """MobileNetV2, of which there is only one version."""

    width_parameter: ClassVar[str] = "features.0.0.weight"
    classes_parameter: ClassVar[str] = "classifier.1.weight"
    width: ClassVar[int] = 32


@dataclass(frozen=True, slots=True)
class MobileV3:
    """The large MobileNetV3."""

    width_parameter: ClassVar[str] = "features.0.0.weight"
    classes_parameter: ClassVar[str] = "classifier.3.weight"
    width: ClassVar[int] = 16


@dataclass(frozen=True, slots=True)
class Bot:
    """A residual network with self-attention: a letter for each block of each of four stages.

    A block `c` has a convolution, and `a` attention. Its parameters are for images of one size:
    `side` is the usual one.
    """

    width_parameter: ClassVar[str] = "stem.conv3.conv.weight"
    classes_parameter: ClassVar[str] = "head.fc.weight"
    width: ClassVar[int] = BASE_WIDTH

    stages: tuple[str, str, str, str]
    activation: Literal["relu", "silu"]
    side: int = 256

    @property
    def position_parameter(self) -> tuple[str, int]:
        """Return a table with 2 s - 1 rows for a feature map of side s, and the image's side / s.

        It is that of the first attention.
        """
        index, kinds = next((i, kinds) for i, kinds in enumerate(self.stages) if "a" in kinds)
        place = kinds.index("a")
        reduction = 4 * 2 ** (index if place else max(index - 1, 0))
        return f"stages.{index}.{place}.self_attn.pos_embed.height_rel", reduction


Architecture = Residual | Dense | Alex | MobileV2 | MobileV3 | Bot

_18, _34, _50 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 6, 3)
_101, _152 = (3, 4, 23, 3), (3, 8, 36, 3)
_LAST_TWO = (2, 3)
_SIDE = 224  # of ImageNet's images, usually

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "resnet18": Residual("basic", _18),
        "resnet34": Residual("basic", _34),
        "resnet50": Residual("bottleneck", _50),
        "resnet101": Residual("bottleneck", _101),
        "resnet152": Residual("bottleneck", _152),
        "resnext50_32x4d": Residual("bottleneck", _50, groups=32, width_per_group=4),
        "resnext101_32x8d": Residual("bottleneck", _101, groups=32, width_per_group=8),
        "resnext101_64x4d": Residual("bottleneck", _101, groups=64, width_per_group=4),
        "wide_resnet50_2": Residual("bottleneck", _50, width_per_group=128),
        "wide_resnet101_2": Residual("bottleneck", _101, width_per_group=128),
        "seresnet50": Residual("bottleneck", _50, attention="se"),
        "seresnet101": Residual("bottleneck", _101, attention="se"),
        "seresnet152": Residual("bottleneck", _152, attention="se"),
        "cbam_resnet50": Residual("bottleneck", _50, attention="cbam"),
        "dilated_resnet50": Residual("bottleneck", _50, dilated=_LAST_TWO),
        "dilated_resnet101": Residual("bottleneck", _101, dilated=_LAST_TWO),
        "separable_resnet50": Residual("bottleneck", _50, separable=True),
        "resnet18d": Residual("basic", _18, stem="deep", average_down=True),
        "resnet34d": Residual("basic", _34, stem="deep", average_down=True),
        "resnet50d": Residual("bottleneck", _50, stem="deep", average_down=True),
        "resnet101d": Residual("bottleneck", _101, stem="deep", average_down=True),
        "resnet152d": Residual("bottleneck", _152, stem="deep", average_down=True),
        "ecaresnet50d": Residual(
            "bottleneck", _50, attention="eca", stem="deep", average_down=True
        ),
        "resnest50d": Residual("split-attention", _50, stem="deep", average_down=True),
        "resnest101e": Residual("split-attention", _101, stem="deep", average_down=True, width=128),
        "densenet121": Dense((6, 12, 24, 16), growth=32, width=64),
        "densenet161": Dense((6, 12, 36, 24), growth=48, width=96),
        "densenet169": Dense((6, 12, 32, 32), growth=32, width=64),
        "densenet201": Dense((6, 12, 48, 32), growth=32, width=64),
        "botnet26t_256": Bot(("cc", "cc", "ca", "aa"), "relu"),
        "botnet50ts_256": Bot(("ccc", "ccca", "cacaca", "cac"), "silu"),
        "mobilenet_v2": MobileV2(),
        "mobilenet_v3_large": MobileV3(),
        "alexnet": Alex(),
    }
)
"""Parameters have torchvision's names or, if it has no such network (SE, CBAM, ECA, D, ResNeSt,
BoTNet), timm's, by the same name, but for CBAM (`resnet50` with `attn_layer="cbam"`)."""


def usual_side(architecture: str) -> int:
    """Return the side of the images that an architecture is usually given, in pixels."""
    spec = ARCHITECTURES[architecture]
    return spec.side if isinstance(spec, Bot) else _SIDE
