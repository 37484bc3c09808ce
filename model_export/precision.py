"""Makes files of lower precision than float32 and refuses those that differ too much from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from model_export.agreement import check_agreement, measure_agreement
from model_export.files import resolved
from model_export.graph import prepare_half, to_onnx
from model_export.images import open_images, spread
from model_export.int8 import quantise
from model_export.pixels import batches
from service.contract import Agreement, Preprocessing
from service.golden import golden_pattern

if TYPE_CHECKING:
    from onnx import ModelProto

_MEASURED = 5000  # images to measure agreement on, at most
_GENERATED = 64  # patterns to use if there are no images
_FIRST_SEED = 1000  # so that they differ from those that parity is measured on


@dataclass(frozen=True, slots=True)
class Lowering:
    """How to make a file of lower precision.

    `images` is a folder or tar; without it, patterns are used. At most `calibration_images`, spread
    over all of them, are used for calibration, and agreement is measured on others, at most
    `_MEASURED`.
    """

    precision: Literal["fp16", "int8"]
    images: Path | None = None
    calibration_images: int = 256
    min_agreement: float = 0.95
    reduce_range: bool = True
    per_channel: bool = True


def lower(
    network: nn.Module, full: Path, target: Path, preprocessing: Preprocessing, how: Lowering
) -> tuple[ModelProto, Agreement]:
    """Write a file of lower precision to `target`, made from the float32 file `full`.

    Raises `AgreementError`, `ImagesError` or `GraphError`.
    """
    source = "generated patterns" if how.images is None else resolved(how.images).name
    with _split(preprocessing, how) as (calibrating, count, measuring):
        if how.precision == "int8":
            model = quantise(
                onnx.load(full), target, calibrating, count,
                reduce_range=how.reduce_range, per_channel=how.per_channel,
            )  # fmt: skip
        else:
            model = to_onnx(prepare_half(network, preprocessing), preprocessing.input_size)
            onnx.save(model, target)
        agreement = measure_agreement(full, target, measuring, source)
    check_agreement(agreement, how.min_agreement)
    return model, agreement


_Batches = Iterator[NDArray[np.uint8]]


@contextmanager
def _split(preprocessing: Preprocessing, how: Lowering) -> Iterator[tuple[_Batches, int, _Batches]]:
    """Yield the images to calibrate on, their number, and those to measure on; may be the same."""
    if how.images is None:
        half, size = _GENERATED // 2, preprocessing.input_size
        yield (
            _patterns(range(_FIRST_SEED, _FIRST_SEED + half), size),
            half,
            _patterns(range(_FIRST_SEED + half, _FIRST_SEED + _GENERATED), size),
        )
        return
    with open_images(how.images) as images:
        names = list(images.names)
        calibrating = spread(names[::2], how.calibration_images)
        others = names if how.precision == "fp16" else names[1::2]
        measuring = spread(others or names, _MEASURED)
        yield (
            batches(images, calibrating, preprocessing, "calibrating"),
            len(calibrating),
            batches(images, measuring, preprocessing, "measuring agreement"),
        )


def _patterns(seeds: range, size: tuple[int, int]) -> _Batches:
    for seed in seeds:
        yield golden_pattern(seed, *size)[None]
