"""Exports, verifies and serves every architecture at full size, with random weights.

    python benchmarks/family.py [--output benchmarks/family.md] [NAME ...]

Each takes the same path as a user's weights: a checkpoint, `resnet-export export`, a model folder,
`resnet-serve`, a request; the answer over HTTP is compared with PyTorch's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from local_server import serving
from PIL import Image

from model_export.architectures import ARCHITECTURES, usual_side
from model_export.architectures.build import build
from model_export.architectures.layers import ResidualBlock
from model_export.cli import main as resnet_export
from model_export.model_file import read_model
from model_export.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from model_export.speed import latencies_ms
from service.cpus import cpu_model
from service.golden import golden_pattern


@dataclass(frozen=True, slots=True)
class Row:
    """What one architecture gave."""

    name: str
    export_s: float
    size_mb: float
    parity: float
    served: float
    batch_1_ms: float


def trained(name: str) -> torch.nn.Module:
    """Build a network of random weights that tells images apart."""
    torch.manual_seed(0)
    network = build(name)
    if name in {"alexnet", "mobilenet_v3_large"}:
        # Between their linear layers there is no normalisation that would keep signals up.
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                torch.nn.init.kaiming_normal_(module.weight)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain average
            torch.nn.init.uniform_(module.weight, 0.2, 0.8)
    for module in network.modules():
        if isinstance(module, ResidualBlock):
            # A residual branch adds little, as where its last scale begins at 0 (arXiv:1706.02677,
            # section 5.1). Else rounding grows from block to block: of resnet152's features,
            # PyTorch's float32 and float64 differ by 1e-3 of the largest.
            torch.nn.init.uniform_(module.last_norm.weight, 0.05, 0.2)
    with torch.no_grad():
        network.train()(pixels(8, usual_side(name)))
    return network.eval()


def pixels(count: int, side: int) -> torch.Tensor:
    """Normalised formula images [count, 3, side, side]."""
    images = np.stack([golden_pattern(seed, side) for seed in range(count)])
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std


def try_out(name: str, folder: Path) -> Row:
    """Export, verify, serve and ask one network; raises `RuntimeError` where one fails."""
    network, side = trained(name), usual_side(name)
    weights, model = folder / "weights.pth", folder / "models" / f"{name}.onnx"
    torch.save(network.state_dict(), weights)
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        command = ["export", name, "--weights", str(weights), "--output", str(model)]
        if resnet_export([*command, "--resize", str(side), "--max-batch", "2"]):
            raise RuntimeError(f"{name}: was not exported")
        export_s = time.perf_counter() - started
        if resnet_export(["verify", str(model), "--weights", str(weights)]):
            raise RuntimeError(f"{name}: was not verified")
    with torch.inference_mode():
        expected = torch.softmax(network(pixels(1, side)), dim=1)[0].numpy()
    answer = ask(model, side)
    got = {label["index"]: label["probability"] for label in answer["results"][0]["labels"]}
    served = max(abs(expected[index] - probability) for index, probability in got.items())
    if served > 1e-4 or int(expected.argmax()) != next(iter(got)):
        raise RuntimeError(f"{name}: answered {got}")
    (times,) = latencies_ms([model], [1])
    parity = read_model(model)[1].parity.max_abs_diff
    size = model.stat().st_size / 1e6
    weights.unlink()
    model.unlink()
    return Row(name, export_s, size, parity, served, times[1])


def ask(model: Path, side: int) -> dict[str, Any]:
    """Serve the file's folder, and post the first formula image as a PNG."""
    encoded = io.BytesIO()
    Image.fromarray(golden_pattern(0, side)).save(encoded, "PNG")
    program = str(Path(sys.executable).with_name("resnet-serve"))
    command = [program, "serve", "--models", str(model.parent), "--runners", "1", "--max-batch",
               "1", "--cache-dir", "none", "--log-level", "error"]  # fmt: skip
    with serving(model.stem, command) as server:
        answer = httpx.post(f"{server.url}/v1/classify", content=encoded.getvalue(), timeout=60)
        answer.raise_for_status()
        result: dict[str, Any] = answer.json()
    return result


def _architecture(text: str) -> str:
    if text not in ARCHITECTURES:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(ARCHITECTURES)}")
    return text


def main() -> None:
    """Try each, print as it goes, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", type=_architecture, default=list(ARCHITECTURES)
    )
    parser.add_argument("--output", type=Path, help="Markdown file to write (default: only print)")
    arguments = parser.parse_args()
    lines = [
        "# Every architecture, at full size",
        "",
        f"`benchmarks/family.py` on {cpu_model()}: random weights, 1000 classes, 224 pixels "
        "(256 for BoTNet); exported, verified, served, and one image's answer over HTTP compared "
        "with PyTorch's.",
        "",
        "| architecture | export | file | max error against PyTorch | over HTTP | one image |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = try_out(name, Path(folder))
            except (RuntimeError, httpx.HTTPError) as error:
                raise SystemExit(f"family: error: {error}") from error
        lines.append(
            f"| {row.name} | {row.export_s:.0f} s | {row.size_mb:.0f} MB | {row.parity:.1e} | "
            f"{row.served:.1e} | {row.batch_1_ms:.0f} ms |"
        )
        print(lines[-1], flush=True)
    if arguments.output:
        arguments.output.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
