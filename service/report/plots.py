"""Plots as self-contained HTML files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from service.report.page import page
from service.report.svg import Line, line_plot


def reliability_plot(title: str, points: Sequence[tuple[float, float]]) -> str:
    """Draw accuracy against confidence, with the diagonal of a calibrated model."""
    lines = [Line("the model", points), Line("calibrated", [(0.0, 0.0), (1.0, 1.0)])]
    return page(title, [_heading(title), line_plot(lines, "confidence", "accuracy")])


def training_plot(title: str, epochs: Sequence[Mapping[str, float]]) -> str:
    """Draw loss and accuracy by epoch."""

    def line(name: str, key: str) -> Line:
        return Line(name, [(row["epoch"], row[key]) for row in epochs])

    losses = [line("training", "train_loss"), line("validation", "val_loss")]
    accuracies = [line("top-1", "val_top1")]
    plots = [line_plot(losses, "epoch", "loss"), line_plot(accuracies, "epoch", "accuracy")]
    return page(title, [_heading(title), f'<div class="plots">{_each(plots)}</div>'])


def _each(plots: Sequence[str]) -> str:
    return "".join(f"<div>{plot}</div>" for plot in plots)


def _heading(title: str) -> str:
    return f"<h1>{escape(title)}</h1>"
