"""train: a few steps in mixed precision."""

from __future__ import annotations

import csv
import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from gpu_check.context import Context, program
from gpu_check.report import Part
from service.golden import golden_pattern

_CLASSES, _IMAGES, _SIDE = 4, 16, 64


def run(context: Context, part: Part) -> None:
    """Train a small network for an epoch with bfloat16; its losses have to be numbers."""
    device = "cuda" if context.gpu else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        _write_images(Path(folder, "images"))
        output = Path(folder, "run")
        done = subprocess.run(
            [*program("resnet-export"), "train", str(Path(folder, "images")), "--output",
             str(output), "--architecture", "resnet18", "--width", "16", "--stem", "small",
             "--input-size", str(_SIDE), "--epochs", "2", "--batch", "16", "--device", device,
             "--amp", "bf16"],
            check=False, capture_output=True, text=True, timeout=55,
        )  # fmt: skip
        part.check(
            f"two epochs on {device}, --amp bf16", f"status {done.returncode}", "status 0",
            ok=done.returncode == 0,
        )  # fmt: skip
        if done.returncode:
            part.notes.append(f"`{done.stderr.strip()[-500:]}`")
            return
        with (output / "metrics.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    losses = [float(row[name]) for row in rows for name in row if "loss" in name]
    finite = bool(losses) and all(map(math.isfinite, losses))
    part.check("losses", ", ".join(f"{loss:.3f}" for loss in losses), "finite", ok=finite)


def _write_images(folder: Path) -> None:
    """Write images whose classes differ by their colour."""
    for label in range(_CLASSES):
        (folder / f"class-{label}").mkdir(parents=True)
        for number in range(_IMAGES):
            pixels = golden_pattern(number, _SIDE) // 2
            pixels[..., label % 3] += np.uint8(100 if label < 3 else 0)
            Image.fromarray(pixels).save(folder / f"class-{label}" / f"{number}.png")
