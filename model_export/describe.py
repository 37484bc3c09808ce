"""What a model file is, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model_export.cost import Cost, graph_cost
from model_export.model_file import read_model
from service.contract import Agreement, ModelContract
from service.cpus import cpu_model


def describe_command(options: Namespace) -> None:
    """Print the contract, cost and size of `options.file`, as JSON if `options.json`.

    Raises `service.errors.ModelFileError` when it is no model file.
    """
    file: Path = options.file
    model, contract = read_model(file)
    cost, size = graph_cost(model), file.stat().st_size
    times = _measured(file) if options.benchmark else {}
    if options.json:
        facts = {
            "file": str(file),
            "size_bytes": size,
            "parameters": cost.parameters,
            "multiply_adds": cost.multiply_adds,
            **({"cpu": cpu_model(), "batch_ms": times} if times else {}),
            "contract": contract.model_dump(mode="json"),
        }
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        Console().print(_table(file, _rows(contract, cost, size) | _speed_row(times)))


def _measured(file: Path) -> dict[int, float]:
    # Imported only here: to read a contract needs no ONNX Runtime.
    from model_export.speed import latencies_ms  # noqa: PLC0415

    (times,) = latencies_ms([file])
    return times


def _speed_row(times: dict[int, float]) -> dict[str, str]:
    if not times:
        return {}
    text = "; ".join(
        f"batch of {size}: {ms:.2f} ms, {size / ms * 1000:.0f} images/s"
        for size, ms in times.items()
    )
    return {"speed": f"{text}; on {cpu_model()}"}


def _table(file: Path, rows: dict[str, str]) -> Table:
    table = Table(title=escape(str(file)), title_style="bold", show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, escape(value))
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
        "parameters": f"{cost.parameters / 1e6:.2f} M (of convolutions and linear layers)",
        "GFLOPs": f"{cost.multiply_adds / 1e9:.2f} an image (multiply-adds)",
        "size": f"{size / 1e6:.1f} MB",
        "weights": contract.weights.source,
        "weights SHA-256": contract.weights.sha256,
        "parity": f"max difference {parity.max_abs_diff:.2g}, top-1 agreement "
        f"{parity.top1_agreement:.1%} on {parity.images} images at batch sizes "
        f"{', '.join(map(str, parity.batch_sizes))}",
        "agreement with float32": describe_agreement(contract.agreement)
        if contract.agreement
        else "is float32",
        "accuracy": f"top-1 {accuracy.top1:.2%}, top-5 {accuracy.top5:.2%} on {accuracy.images} "
        f"images of {accuracy.data_set}"
        if accuracy
        else "not measured",
        "golden cases": f"{len(contract.golden)}, tolerance {tolerance.cpu:g} on CPU, "
        f"{tolerance.cuda:g} on CUDA",
        "made with": ", ".join(f"{tool} {version}" for tool, version in contract.tools.items()),
    }


def describe_agreement(agreement: Agreement, whose: str = "float32's") -> str:
    """Say it in a line."""
    return (
        f"{agreement.top1:.2%} of labels are {whose} on {agreement.images} images "
        f"({agreement.source}), probabilities differ by {agreement.mean_abs_diff:.2g} on average, "
        f"{agreement.max_abs_diff:.2g} at most"
    )
