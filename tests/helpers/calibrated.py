"""Calibrations of the colour model, whose embedding is an image's mean colour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from color_model import write_color_model

from service.calibration import CALIBRATION_KEY, encoded


def calibration(**changes: Any) -> dict[str, Any]:
    """A calibration as JSON's values: colours within 2 x 10 levels of grey (128) are inside."""
    fields = {
        "version": 1,
        "classes": 3,
        "data_set": "colours",
        "split": {"seed": 0, "temperature": 100, "coverage": 100, "test": 200},
        "temperature": 2.0,
        "before": {"nll": 0.5, "ece": 0.1},
        "after": {"nll": 0.4, "ece": 0.02},
        "coverage": [
            {"level": 0.8, "threshold": 0.0, "measured": 0.81, "labels": 1.0},
            {"level": 0.95, "threshold": 0.9, "measured": 0.96, "labels": 2.5},
        ],
        "embedding": embedding(),
    }
    return fields | changes


def embedding(**changes: Any) -> dict[str, Any]:
    fields = {
        "mean": encoded(np.full(3, 128, np.float32)),
        "directions": encoded(np.array([1, 0, 0], np.float32)),
        "variances": [100.0],
        "noise": 100.0,
        "kept": 0.95,
        "limit": 2.0,
        "inside": 0.94,
        "outside": {"data_set": "others", "images": 10, "auroc": 0.99, "marked": 0.9},
    }
    return fields | changes


def write_calibrated(path: Path, text: str, *, extra_outputs: bool = True, **changes: Any) -> Path:
    """Write the colour model with a calibration; `changes` go into its contract."""
    write_color_model(path, extra_outputs=extra_outputs, **changes)
    model = onnx.load(path)
    model.metadata_props.add(key=CALIBRATION_KEY, value=text)
    onnx.save(model, path)
    return path
