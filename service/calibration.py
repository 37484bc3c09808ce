"""The calibration: how far a model file's answers can be trusted, as measured on labelled images.

`resnet-export calibrate` writes it as JSON into the file's metadata under `CALIBRATION_KEY`, beside
the contract, which it does not change. It holds

- a temperature (Guo et al., "On Calibration of Modern Neural Networks",
  https://arxiv.org/abs/1706.04599), with which probabilities are as often right as they say;
- thresholds of adaptive prediction sets (Romano, Sesia, Candes, "Classification with Valid and
  Adaptive Coverage", https://arxiv.org/abs/2006.02544), without randomisation;
- the mean and principal directions of the embedding (Tipping, Bishop, "Probabilistic Principal
  Component Analysis", J. R. Stat. Soc. B 61, 1999), for an image's distance.

The thresholds are fitted on other images than the rest, and all are measured on others still.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.contract import Fraction, ModelContract
from service.errors import CalibrationError
from service.wording import what_is_wrong

CALIBRATION_KEY = "resnet_serve.calibration"
"""The ONNX metadata property that holds the calibration."""

MOST_BYTES: Final = 1_000_000
"""The largest calibration that is written or read."""

Count = Annotated[int, Field(ge=1)]
Level = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class _Part(BaseModel):
    """A frozen part; it forbids unknown fields, which come from a newer tool."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Split(_Part):
    """How many images each part had; they were drawn at random with `seed`, each for one part."""

    seed: Annotated[int, Field(ge=0)]
    temperature: Count
    """Also for the statistics of the embedding."""
    coverage: Count
    """Also for the distance up to which an image counts as inside."""
    test: Count


class Reliability(_Part):
    """How far probabilities are from the truth, on the images of the test part.

    `nll` is the mean negative logarithm of the right label's probability, `ece` the expected
    calibration error over 15 bins of equal width.
    """

    nll: Annotated[float, Field(ge=0)]
    ece: Fraction


class Coverage(_Part):
    """A label set of each image, which has the right label with a probability of at least `level`.

    The set has the most probable labels, until their tempered probabilities add up to more than
    `threshold`. `measured` is the share of the test images whose set has their label, `labels` the
    mean size of these sets.
    """

    level: Level
    threshold: Annotated[float, Field(ge=0, le=1.001)]
    measured: Fraction
    labels: Annotated[float, Field(ge=1)]


class Outside(_Part):
    """How well the distance tells other images from those of the test part.

    `auroc` is the probability that one of them is further away; `marked` the share that is marked.
    """

    data_set: str
    images: Count
    auroc: Fraction
    marked: Fraction


class Embedding(_Part):
    """The distribution of the embedding [D]: a normal one of low rank k, and noise.

    `mean` [D] and `directions` [k, D] are little-endian float32 in base64. `variances` belong to
    the directions, `noise` to each of the other D - k.
    """

    mean: str
    directions: str
    variances: Annotated[tuple[Positive, ...], Field(min_length=1)]
    noise: Positive
    kept: Level
    """The share of images like the calibration's that is inside."""
    limit: Positive
    """The distance up to which an image is inside."""
    inside: Fraction
    """The share of the test images that is inside."""
    outside: Outside | None = None

    @model_validator(mode="after")
    def _has_arrays(self) -> Embedding:
        mean, directions = self.arrays
        if not (np.isfinite(mean).all() and np.isfinite(directions).all()):
            raise ValueError("mean or directions are not finite")
        return self

    @cached_property
    def arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return `mean` [D] and `directions` [k, D], as wide as distances are computed."""
        mean, flat = _array(self.mean, "mean"), _array(self.directions, "directions")
        if not mean.size or flat.size != mean.size * len(self.variances):
            raise ValueError(
                f"directions has {flat.size} values, not {len(self.variances)} x {mean.size}"
            )
        return mean, flat.reshape(len(self.variances), mean.size)

    @cached_property
    def scales(self) -> NDArray[np.float64]:
        """Return `variances` as an array [k]."""
        return np.array(self.variances)


class Calibration(_Part):
    """Everything that was measured on labelled images; `classes` is their number."""

    version: Literal[1] = 1
    classes: Annotated[int, Field(ge=2)]
    data_set: str
    split: Split
    temperature: Positive
    before: Reliability
    after: Reliability
    """With the temperature."""
    coverage: Annotated[tuple[Coverage, ...], Field(min_length=1)]
    """By ascending level."""
    embedding: Embedding | None = None
    """None if the model has no embedding."""

    @model_validator(mode="after")
    def _is_ascending(self) -> Calibration:
        levels = [one.level for one in self.coverage]
        thresholds = [one.threshold for one in self.coverage]
        if sorted(set(levels)) != levels or sorted(thresholds) != thresholds:
            raise ValueError("coverage: levels and thresholds have to ascend")
        return self

    def facts(self) -> dict[str, Any]:
        """Return everything but the arrays as plain data, for display."""
        arrays = {"embedding": {"mean", "directions", "variances", "noise"}}
        return self.model_dump(mode="json", exclude=arrays)


def encoded(values: NDArray[np.float32]) -> str:
    """Return an array's values as little-endian float32 in base64."""
    return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode()


def parse_calibration(
    metadata: Mapping[str, str], contract: ModelContract, *, file: str
) -> Calibration | None:
    """Read the calibration from a model file's metadata; None if it has none.

    `file` is only used in error messages. Raises `CalibrationError` if it is invalid.
    """
    text = metadata.get(CALIBRATION_KEY)
    if text is None:
        return None
    if len(text) > MOST_BYTES:
        raise CalibrationError(
            f"{file}: its calibration is invalid: it has {len(text)} characters, {MOST_BYTES} are "
            "allowed"
        )
    try:
        calibration = Calibration.model_validate_json(text)
    except ValidationError as error:
        raise CalibrationError(
            f"{file}: its calibration is invalid: {_told(error)}; `resnet-export calibrate` writes "
            "another"
        ) from error
    if calibration.classes != len(contract.labels) or contract.multi_label is not None:
        raise CalibrationError(
            f"{file}: its calibration is for {calibration.classes} classes of which one is right, "
            "not for the labels of its contract"
        )
    return calibration


def _told(error: ValidationError) -> str:
    first: Any = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return " ".join(f"{where + ': ' if where else ''}{what_is_wrong(first)}".split())  # one line


def _array(text: str, name: str) -> NDArray[np.float64]:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{name} is not base64") from error
    if len(data) % 4:
        raise ValueError(f"{name} is not whole float32 values")
    return np.frombuffer(data, "<f4").astype(np.float64)
