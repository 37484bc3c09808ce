"""Describes a model file, as a table for people or as JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model_export.cost import Cost, graph_cost
from model_export.model_file import read_model
from service.calibration import Calibration, parse_calibration
from service.contract import Agreement, Allowed, Faster, ModelContract, Preprocessing
from service.cpus import cpu_model
from service.engine.providers import title_of

_LABELS = 3  # to show of all


@dataclass(frozen=True, slots=True)
class Described:
    """A model file's contract, cost, size in bytes and speed.

    `times` are milliseconds per batch, by batch size; empty if they were not measured.
    """

    file: Path
    contract: ModelContract
    calibration: Calibration | None
    cost: Cost
    size: int
    times: Mapping[int, float]

    @classmethod
    def of(cls, file: Path, times: Mapping[int, float]) -> Described:
        """Read a file. Raises `service.errors.ModelFileError` if it is not a model file."""
        model, contract = read_model(file)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
        calibration = parse_calibration(metadata, contract, file=str(file))
        return cls(file, contract, calibration, graph_cost(model), file.stat().st_size, times)

    def facts(self) -> dict[str, Any]:
        """Return everything as plain data, for JSON."""
        return {
            "file": str(self.file),
            "size_bytes": self.size,
            "parameters": self.cost.parameters,
            "multiply_adds": self.cost.multiply_adds,
            **({"cpu": cpu_model(), "batch_ms": self.times} if self.times else {}),
            "contract": self.contract.model_dump(mode="json"),
            "calibration": self.calibration and self.calibration.facts(),
        }

    def rows(self) -> dict[str, str]:
        """Return the rows of the table as text, by name."""
        calibrated = "\n".join(describe_calibration(self.calibration)) if self.calibration else "no"
        return (
            _rows(self.contract, self.cost, self.size)
            | {"calibrated": calibrated}
            | _speed_row(self.times)
        )


def describe_command(file: Path, *, as_json: bool, benchmark: bool) -> None:
    """Print the contract, cost and size of a model file and, with `benchmark`, its speed.

    Raises `service.errors.ModelFileError` if it is not a model file.
    """
    read_model(file)  # before anything is measured
    described = Described.of(file, _measured(file) if benchmark else {})
    if as_json:
        sys.stdout.write(json.dumps(described.facts(), indent=2) + "\n")
    else:
        Console().print(table_of([described]))


def table_of(files: Sequence[Described], names: Collection[str] | None = None) -> Table:
    """Return a table with a column per file and the named rows, by default all."""
    single = len(files) == 1
    titles = [escape(str(described.file)) for described in files]
    table = Table(title=titles[0] if single else None, title_style="bold", show_header=not single)
    table.add_column(style="cyan", no_wrap=True)
    for title in titles:
        table.add_column("" if single else title, overflow="fold")
    columns = [described.rows() for described in files]
    for name in columns[0]:
        if names is None or name in names:
            table.add_row(name, *(escape(rows[name]) for rows in columns))
    return table


def _measured(file: Path) -> dict[int, float]:
    # Imported late: reading a contract needs no ONNX Runtime.
    from model_export.speed import latencies_ms  # noqa: PLC0415

    (times,) = latencies_ms([file])
    return times


def _speed_row(times: Mapping[int, float]) -> dict[str, str]:
    if not times:
        return {}
    text = "; ".join(
        f"batch of {size}: {ms:.2f} ms, {size / ms * 1000:.0f} images/s"
        for size, ms in times.items()
    )
    return {"speed": f"{text}; on {cpu_model()}"}


def _rows(contract: ModelContract, cost: Cost, size: int) -> dict[str, str]:
    images, parity = contract.preprocessing, contract.parity
    accuracy = contract.accuracy
    names = [label.label for label in contract.labels[:_LABELS]]
    more = ["..."] if len(contract.labels) > _LABELS else []
    return {
        "name": contract.name,
        "architecture": contract.architecture,
        "input": f"{describe_input(images)}, EXIF {images.exif}",
        "mean, std": f"{images.mean}, {images.std}",
        "labels": f"{len(contract.labels)} ({', '.join([*names, *more])})"
        + (", independent" if contract.multi_label else ""),
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
        else "exact",
        "allowed": "; ".join(map(describe_allowed, contract.allowed, contract.allowed.values()))
        if contract.allowed
        else "none",
        "accuracy": f"top-1 {accuracy.top1:.2%}, top-5 {accuracy.top5:.2%} on {accuracy.images} "
        f"images of {accuracy.data_set}"
        if accuracy
        else "not measured",
        "golden cases": f"{len(contract.golden)}, tolerance {describe_tolerances(contract)}",
        "made with": ", ".join(f"{tool} {version}" for tool, version in contract.tools.items()),
    }


def describe_input(images: Preprocessing) -> str:
    """Return the input and how images become it in words, sizes as width x height."""
    (height, width), (to_height, to_width) = images.input_size, images.resize_to
    to = f"{to_width} x {to_height}"
    how = {
        "short_side": f"short side resized to {to_height}",
        "cover": f"resized to cover {to}",
        "contain": f"resized to fit into {to}",
        "squash": f"resized to {to} whatever their shape",
    }[images.fit]
    rest = "centre crop"
    if images.fit == "contain":
        where = {"center": "centred", "top_left": "at the top left"}[images.position]
        rest = f"{where} on RGB {images.fill}"
    return f"{width} x {height} RGB, uint8; {how} ({images.interpolation}), {rest}"


def describe_calibration(found: Calibration) -> list[str]:
    """Return a calibration in words: the split, the temperature, coverage, the embedding."""
    split, before, after = found.split, found.before, found.after
    coverage = ", ".join(
        f"{one.measured:.3f} at {one.level:g} ({one.labels:.1f})" for one in found.coverage
    )
    lines = [
        f"on {found.data_set}: {split.temperature} images for the temperature, {split.coverage} "
        f"for coverage, {split.test} to test; seed {split.seed}",
        f"temperature {found.temperature:.4g}: NLL {before.nll:.4f} before, {after.nll:.4f} after; "
        f"calibration error {before.ece:.2%} before, {after.ece:.2%} after",
        f"coverage (labels per image): {coverage}",
    ]
    if found.embedding is None:
        return [*lines, "no embedding"]
    outside = found.embedding.outside
    told = f"{found.embedding.inside:.2%} of the test images inside"
    if outside is not None:
        told += (
            f", {1 - outside.marked:.2%} of {outside.images} images of {outside.data_set}; AUROC "
            f"{outside.auroc:.4f}"
        )
    return [*lines, told]


def describe_tolerances(contract: ModelContract) -> str:
    """Return the tolerances in words, such as "0.0001 on CPU, 0.001 on CUDA"."""
    return ", ".join(
        f"{contract.tolerance(provider):g} on {title_of(provider)}"
        for provider in contract.tolerances
    )


def describe_allowed(precision: Faster, allowed: Allowed) -> str:
    """Say how far a faster precision agrees, in a line."""
    return (
        f"in {precision}, {allowed.top1:.2%} of {allowed.images} images ({allowed.source}) get the "
        f"same label as in float32, at least {allowed.lower_bound:.2%} with 95% confidence; "
        f"probabilities differ by {allowed.mean_abs_diff:.2g} on average, "
        f"{allowed.max_abs_diff:.2g} at most; measured on {allowed.device}"
    )


def describe_agreement(agreement: Agreement, whose: str = "in float32") -> str:
    """Return an agreement in words, on one line."""
    return (
        f"{agreement.top1:.2%} of {agreement.images} images ({agreement.source}) get the same "
        f"label as {whose}; probabilities differ by {agreement.mean_abs_diff:.2g} on average, "
        f"{agreement.max_abs_diff:.2g} at most"
    )
