"""`resnet-export list`: the networks that can be built, with their size and cost."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model_export.architectures import ARCHITECTURES, usual_side
from model_export.architectures.build import build
from model_export.weights import OFFICIAL


@dataclass(frozen=True, slots=True)
class Row:
    """A network with 1000 classes: its size, its cost for an image, and published accuracy.

    `multiply_adds` are those of convolutions, linear layers and products of matrices.
    """

    architecture: str
    input_size: int
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
        caption="GFLOPs: multiply-adds for an image of that input size. Top-1: of torchvision's "
        "official weights (--weights imagenet), as published."
    )
    table.add_column("architecture", style="cyan", no_wrap=True)
    for name in ("input", "parameters", "GFLOPs", "official top-1", "float32 file"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.architecture,
            str(row.input_size),
            f"{row.parameters / 1e6:.1f} M",
            f"{row.multiply_adds / 1e9:.2f}",
            "-" if row.top1 is None else f"{row.top1:.2f} %",
            f"{row.size_bytes / 1e6:.0f} MB",
        )
    Console().print(table)


def row_of(architecture: str) -> Row:
    """Return an architecture's row, from shapes alone, without memory for weights."""
    side = usual_side(architecture)
    with torch.device("meta"):
        network = build(architecture).eval()
        work = multiply_adds(network, side)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    official = OFFICIAL.get(architecture)
    top1 = official.top1 if official else None
    return Row(architecture, side, parameters, work, top1, 4 * parameters)


def multiply_adds(network: nn.Module, side: int) -> int:
    """Count them for an image of `side` x `side` pixels, on the default device."""
    image = torch.zeros(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    operations: int = counter.get_total_flops()  # an addition and a multiplication are two
    return operations // 2
