"""The networks that can be built, by name.

Nothing here imports PyTorch: the command line reads this table for its help.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

BlockKind = Literal["basic", "bottleneck"]
Stem = Literal["imagenet", "small"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A residual network: its kind of block, and the number of blocks in each of four stages."""

    block: BlockKind
    depths: tuple[int, int, int, int]


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "resnet18": Architecture("basic", (2, 2, 2, 2)),
        "resnet34": Architecture("basic", (3, 4, 6, 3)),
        "resnet50": Architecture("bottleneck", (3, 4, 6, 3)),
        "resnet101": Architecture("bottleneck", (3, 4, 23, 3)),
        "resnet152": Architecture("bottleneck", (3, 8, 36, 3)),
    }
)
