"""What a model file is, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from model_export.cost import Cost, graph_cost
from model_export.model_file import read_model
from service.contract import ModelContract


def describe_command(options: Namespace) -> None:
    """Print the contract, cost and size of `options.file`, as JSON if `options.json`.

    Raises `service.errors.ModelFileError` when it is no model file.
    """
    file: Path = options.file
    model, contract = read_model(file)
    cost, size = graph_cost(model), file.stat().st_size
    if options.json:
        facts = {
            "file": str(file),
            "size_bytes": size,
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
            "contract": contract.model_dump(mode="json"),
        }
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        Console().print(_table(file, contract, cost, size))


def _table(file: Path, contract: ModelContract, cost: Cost, size: int) -> Table:
    table = Table(title=str(file), title_style="bold", show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _rows(contract, cost, size).items():
        table.add_row(name, value)
    return table


def _rows(contract: ModelContract, cost: Cost, size: int) -> dict[str, str]:
    images, parity, tolerance = contract.preprocessing, contract.parity, contract.tolerance
    accuracy = contract.accuracy
    first = ", ".join(label.label for label in contract.labels[:3])
    return {
        "name": contract.name,
        "architecture": contract.architecture,
        "input": f"{images.crop} x {images.crop} RGB, uint8; short side resized to "
        f"{images.resize} ({images.interpolation}), centre crop, EXIF {images.exif}",
        "mean, std": f"{images.mean}, {images.std}",
        "labels": f"{len(contract.labels)} ({first}, ...)",
        "outputs": ", ".join(("probabilities", *contract.optional_outputs)),
        "precision": f"{contract.precision}, weights stored as {contract.storage}",
        "parameters": f"{cost.parameters / 1e6:.2f} M (batch normalisation folded)",
        "GFLOPs": f"{cost.multiply_adds / 1e9:.2f} an image (multiply-adds)",
        "size": f"{size / 1e6:.1f} MB",
        "weights": contract.weights.source,
        "weights SHA-256": contract.weights.sha256,
        "parity with PyTorch": f"max difference {parity.max_abs_diff:.2g}, top-1 agreement "
        f"{parity.top1_agreement:.1%} on {parity.images} images at batch sizes "
        f"{', '.join(map(str, parity.batch_sizes))}",
        "accuracy": f"top-1 {accuracy.top1:.2%}, top-5 {accuracy.top5:.2%} on {accuracy.images} "
        f"images of {accuracy.data_set}"
        if accuracy
        else "not measured",
        "golden cases": f"{len(contract.golden)}, tolerance {tolerance.cpu:g} on CPU, "
        f"{tolerance.cuda:g} on CUDA",
        "made with": ", ".join(f"{tool} {version}" for tool, version in contract.tools.items()),
    }
