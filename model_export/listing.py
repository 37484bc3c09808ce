"""`resnet-export list`: the networks that can be built, with their size and cost."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from model_export.architectures import ARCHITECTURES
from model_export.architectures.build import build
from model_export.weights import OFFICIAL

_SIDE = 224


@dataclass(frozen=True, slots=True)
class Row:
    """A network with 1000 classes: its size, its cost at 224 pixels, and published accuracy.

    `multiply_adds` are those of convolutions and linear layers.
    """

    architecture: str
    parameters: int
    multiply_adds: int
    top1: float | None
    size_bytes: int


def list_command(*, as_json: bool) -> None:
    """Print a table of all architectures, or JSON."""
    rows = [row_of(name) for name in ARCHITECTURES]
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
        return
    table = Table(
        caption="GFLOPs: multiply-adds for an image of 224 x 224. Top-1: of torchvision's official "
        "weights (--weights imagenet), as published."
    )
    table.add_column("architecture", style="cyan", no_wrap=True)
    for name in ("parameters", "GFLOPs", "official top-1", "float32 file"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.architecture,
            f"{row.parameters / 1e6:.1f} M",
            f"{row.multiply_adds / 1e9:.2f}",
            "-" if row.top1 is None else f"{row.top1:.2f} %",
            f"{row.size_bytes / 1e6:.0f} MB",
        )
    Console().print(table)


def row_of(architecture: str) -> Row:
    """Return an architecture's row, from shapes alone, without memory for weights."""
    with torch.device("meta"):
        network = build(architecture).eval()
        work = _multiply_adds(network, torch.zeros(1, 3, _SIDE, _SIDE))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    official = OFFICIAL.get(architecture)
    return Row(architecture, parameters, work, official.top1 if official else None, 4 * parameters)


def _multiply_adds(network: nn.Module, image: torch.Tensor) -> int:
    total = 0

    def count(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, torch.Tensor)  # noqa: S101 - hooked modules have one
        # Each value of the output sums the products of one row of weights.
        total += output.numel() * weight[0].numel()

    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # It changes no shape and is not counted, but PyTorch takes long over it without data.
            module.forward = _unchanged  # type: ignore[method-assign, assignment]
    with torch.inference_mode():
        network(image)
    for hook in hooks:
        hook.remove()
    return total


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x
