"""The files in a run's folder: checkpoints, and metrics as CSV and as a plot."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from model_export.checkpoint import TRAINED
from model_export.errors import OptionsError, WeightsError
from model_export.unpickling import load_pickle
from service.files import replacing
from service.report.plots import training_plot

LAST, BEST, METRICS, PLOT = "last.pth", "best.pth", "metrics.csv", "metrics.html"

_PARTS = {"history", "recipe", "model", "model_ema", "optimiser", TRAINED}

Metrics = dict[str, float]
"""An epoch's epoch, learning_rate, train_loss, val_loss, val_top1, val_top5 and seconds."""


@dataclass(slots=True)
class RunFolder:
    """A run's files; each one is complete at any time, even if the run is killed."""

    path: Path
    history: list[Metrics] = field(default_factory=list)

    def open(self, *, resume: bool) -> dict[str, Any] | None:
        """Create the folder or, with `resume`, return the state to continue from.

        Raises `OptionsError` if there is a run but no `resume`, or the reverse.
        """
        last = self.path / LAST
        for left in self.path.glob(".*.part"):  # from a run that was killed while writing
            left.unlink()
        if resume:
            if not last.is_file():
                raise OptionsError(f"{last}: no such file, so there is nothing to resume")
            state = load_pickle(last)
            if not isinstance(state, dict) or not state.keys() >= _PARTS:
                raise WeightsError(f"{last}: is not the state of a run")
            self.history = state["history"]
            return state
        if last.exists():
            raise OptionsError(f"{self.path}: already has a run; --resume continues it")
        self.path.mkdir(parents=True, exist_ok=True)
        return None

    def save_last(self, state: dict[str, Any]) -> None:
        """Save everything that the next epoch needs."""
        self._save(LAST, state | {"history": self.history})

    def save_best(self, content: dict[str, Any]) -> None:
        """Save the parameters that were best on the validation images."""
        self._save(BEST, content)

    def note(self, metrics: Metrics) -> None:
        """Add an epoch's metrics to the table and the plot."""
        self.history.append(metrics)
        with (
            replacing(self.path / METRICS) as file,
            file.open("w", encoding="utf-8", newline="") as table,
        ):
            writer = csv.DictWriter(table, list(metrics))
            writer.writeheader()
            writer.writerows(_rounded(row) for row in self.history)
        with replacing(self.path / PLOT) as file:
            file.write_text(training_plot(f"training in {self.path.name}", self.history), "utf-8")

    def _save(self, name: str, content: dict[str, Any]) -> None:
        with replacing(self.path / name) as file, file.open("wb") as stream:
            try:
                torch.save(content, stream)
            except RuntimeError as error:
                # PyTorch ends its archive even after a failed write, which raises another error.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


def best_epoch(history: Sequence[Metrics]) -> Metrics:
    """Return the first epoch with the best top-1."""
    return max(history, key=lambda metrics: metrics["val_top1"])


def _rounded(metrics: Metrics) -> dict[str, str]:
    return {name: f"{value:.6g}" for name, value in metrics.items()}
