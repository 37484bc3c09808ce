"""`resnet-export evaluate`: how often a model file is right, and how well calibrated it is."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from model_export.images import labelled, open_images, spread
from model_export.model_file import read_model, rewrite_contract
from model_export.options import EvaluateOptions
from model_export.pixels import BATCH, batches
from service.contract import Accuracy, ModelContract
from service.engine.base import Engine, probabilities
from service.engine.onnx import load_engine
from service.engine.providers import EngineOptions
from service.files import replacing
from service.report.plots import reliability_plot

_BINS = 15
_BAR = 30  # characters


@dataclass(frozen=True, slots=True)
class ClassResult:
    """One class: its id and label, its number of images, and its top-1 accuracy."""

    id: str
    label: str
    images: int
    top1: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Images whose best probability is from `low` to `high`: mean confidence and accuracy."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Top-1 and top-5 accuracy as fractions, calibration, and the results by class.

    `calibration_error` is the expected calibration error over bins of equal width: the mean
    distance between confidence and accuracy, weighted by images (Guo et al., "On Calibration of
    Modern Neural Networks", https://arxiv.org/abs/1706.04599).
    """

    images: int
    top1: float
    top5: float
    calibration_error: float
    classes: list[ClassResult]
    bins: list[Bin]


def evaluate_command(options: EvaluateOptions) -> None:
    """Evaluate as the options say; print, plot and store the result."""
    _, contract = read_model(options.file)
    engine = load_engine(
        options.file,
        provider=options.provider,
        options=EngineOptions(precision=options.precision),
    )
    try:
        result = evaluate(engine, contract, options.images, options.limit)
    finally:
        engine.close()
    # Files first: the reader of the output may stop, as `head` does.
    if options.plot is not None:
        with replacing(options.plot) as file:
            file.write_text(
                reliability_plot(f"{contract.name} on {options.data_set}", _points(result)), "utf-8"
            )
    if options.write:
        accuracy = Accuracy(
            data_set=options.data_set, images=result.images, top1=result.top1, top5=result.top5
        )
        rewrite_contract(options.file, contract.model_copy(update={"accuracy": accuracy}))
    if options.as_json:
        sys.stdout.write(
            json.dumps({"data_set": options.data_set} | asdict(result), indent=2) + "\n"
        )
    else:
        _print(result, options.file, options.data_set, all_classes=options.all_classes)


def evaluate(
    engine: Engine, contract: ModelContract, source: Path, limit: int | None = None
) -> Evaluation:
    """Run labelled images, at most `limit` of them, through a model. Raises `ImagesError`."""
    engine.prepare((BATCH,))
    with open_images(source) as images:
        wanted = spread(labelled(images, contract.labels, source), limit)
        truth = np.array([one.index for one in wanted])
        answers = [
            _summary(probabilities(engine, [*batch]))
            for batch in batches(
                images, [one.name for one in wanted], contract.preprocessing, "evaluating"
            )
        ]
    best = np.concatenate([indices for indices, _ in answers])
    confidence = np.concatenate([sure for _, sure in answers])
    hits = best == truth[:, None]
    right = hits[:, 0]
    bins = _bins(confidence, right)
    return Evaluation(
        images=len(truth),
        top1=float(right.mean()),
        top5=float(hits.any(axis=1).mean()),
        calibration_error=sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / len(truth),
        classes=_classes(contract, truth, right),
        bins=bins,
    )


def _summary(probabilities: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return a batch's five best classes [n, 5] and best probability [n]."""
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :5], probabilities.max(axis=1)


def _bins(confidence: NDArray[np.float32], right: NDArray[np.bool_]) -> list[Bin]:
    place = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    bins = []
    for index in range(_BINS):
        inside = place == index
        if count := int(inside.sum()):
            mean = float(confidence[inside].mean()), float(right[inside].mean())
            bins.append(Bin(index / _BINS, (index + 1) / _BINS, count, *mean))
    return bins


def _classes(
    contract: ModelContract, truth: NDArray[np.int64], right: NDArray[np.bool_]
) -> list[ClassResult]:
    """List the classes that have images, worst first."""
    images = np.bincount(truth, minlength=len(contract.labels))
    hits = np.bincount(truth, weights=right, minlength=len(contract.labels))
    results = [
        ClassResult(label.id, label.label, int(count), float(hit / count))
        for label, count, hit in zip(contract.labels, images, hits, strict=True)
        if count
    ]
    return sorted(results, key=lambda result: result.top1)


def _points(result: Evaluation) -> list[tuple[float, float]]:
    return [(one.confidence, one.accuracy) for one in result.bins]


def _print(result: Evaluation, file: Path, data_set: str, *, all_classes: bool) -> None:
    console = Console()
    console.print(
        f"{file}: top-1 {result.top1:.2%}, top-5 {result.top5:.2%} on {result.images} images of "
        f"{data_set}; calibration error {result.calibration_error:.2%}",
        highlight=False, soft_wrap=True, markup=False,
    )  # fmt: skip
    shown = result.classes if all_classes else result.classes[:10]
    title = "all classes" if all_classes else f"the {len(shown)} worst classes"
    table = Table(title=f"{title} of {len(result.classes)}")
    for name in ("class", "id"):
        table.add_column(name, overflow="fold")
    for name in ("images", "top-1"):
        table.add_column(name, justify="right")
    for row in shown:
        table.add_row(escape(row.label), escape(row.id), str(row.images), f"{row.top1:.1%}")
    console.print(table)
    table = Table(title="confidence against accuracy")
    for name in ("confidence", "images", "accuracy"):
        table.add_column(name, justify="right")
    table.add_column("# accuracy, | confidence")
    for one in result.bins:
        table.add_row(
            f"{one.low:.2f}-{one.high:.2f}", str(one.images), f"{one.accuracy:.1%}",
            _bar(one.accuracy, one.confidence),
        )  # fmt: skip
    console.print(table)


def _bar(accuracy: float, confidence: float) -> str:
    filled, mark = round(accuracy * _BAR), min(round(confidence * _BAR), _BAR - 1)
    cells = ["#"] * filled + [" "] * (_BAR - filled)
    cells[mark] = "|"
    return "".join(cells)
