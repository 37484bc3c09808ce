"""Which labels of an image are answered: the first few, those that reach a threshold, or a set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batching.ticket import ONLY_PROBABILITIES
from service.calibration import Calibration, Coverage, Embedding
from service.contract import EMBEDDING, PROBABILITIES, ModelContract
from service.errors import (
    CoverageLevelError,
    InferenceError,
    InvalidParameterError,
    NotCalibratedError,
    NotMultiLabelError,
    TopKError,
)
from service.inference.request import ImageResult
from service.models.model import ServedModel
from service.postprocess.distance import distances
from service.postprocess.label_sets import Labels, at_least, label_set
from service.postprocess.top_k import top_k as most_probable

_DEFAULT_TOP_K = 5


@dataclass(slots=True)
class Selection:
    """What is answered of an image's probabilities and embedding; like requests, not frozen."""

    most: int
    thresholds: float | NDArray[np.float32] | None = None
    """Of independent labels; for all, or of each of the C."""
    coverage: Coverage | None = None
    temperature: float = 1.0
    inside: Embedding | None = None
    """What decides whether an image is outside, if that is asked."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the outputs of the model that this needs."""
        return ONLY_PROBABILITIES if self.inside is None else (PROBABILITIES, EMBEDDING)

    def labels(self, probabilities: NDArray[np.float32]) -> Labels:
        """Return the class indices and probabilities to answer, most probable first."""
        if self.thresholds is not None:
            return at_least(probabilities, self.thresholds, self.most)
        if self.coverage is not None:
            return label_set(probabilities, self.temperature, self.coverage.threshold)
        return most_probable(probabilities, self.most)

    def facts(self, result: ImageResult) -> Mapping[str, Any]:
        """Return what else is answered of an image."""
        facts: dict[str, Any] = {}
        if self.coverage is not None:
            facts["coverage"] = self.coverage.level
        if self.inside is not None:
            score = _score(result.outputs[EMBEDDING], self.inside)
            facts |= {"outside": score > 1, "score": round(score, 6)}
        return facts


def selection_of(
    model: ServedModel,
    top_k: int | None = None,
    threshold: float | None = None,
    coverage: float | None = None,
    *,
    abstain: bool = False,
) -> Selection:
    """Return what is asked of a model; None is the model's own default.

    Raises `TopKError`, `NotMultiLabelError`, `NotCalibratedError`, `CoverageLevelError`, or
    `InvalidParameterError` for parameters that contradict each other.
    """
    contract = model.contract
    most = _most(top_k, model)
    if contract.multi_label is None and threshold is not None:
        raise NotMultiLabelError(
            f"threshold is for models with independent labels; of {model.name}'s, one is right"
        )
    inside = _inside(model) if abstain else None
    if coverage is not None:
        if top_k is not None:
            raise InvalidParameterError("top_k and coverage both say how many labels: give one")
        calibration = _calibration(model, "coverage")
        level = _level(calibration, coverage, model)
        return Selection(most, None, level, calibration.temperature, inside)
    if contract.multi_label is None:
        return Selection(most, inside=inside)
    thresholds = _thresholds(contract) if threshold is None else threshold
    return Selection(most, thresholds)


def _most(top: int | None, model: ServedModel) -> int:
    """Return how many labels each image gets at most. Raises `TopKError`."""
    classes = len(model.contract.labels)
    if top is None:
        independent = model.contract.multi_label is not None
        default = model.options.top_k or (classes if independent else _DEFAULT_TOP_K)
        return min(default, classes)
    if not 1 <= top <= classes:
        raise TopKError(f"top_k is {top}; {model.name} allows 1 to {classes}")
    return top


def _thresholds(contract: ModelContract) -> float | NDArray[np.float32]:
    rule = contract.multi_label
    assert rule is not None  # noqa: S101 - asked before
    if not rule.thresholds:
        return rule.threshold
    return np.array([rule.of(label.id) for label in contract.labels], np.float32)


def _calibration(model: ServedModel, asked: str) -> Calibration:
    if model.contract.multi_label is not None:
        raise NotCalibratedError(
            f"{asked} is for models of which one label is right; those of {model.name} are "
            "independent"
        )
    if model.calibration is None:
        raise NotCalibratedError(
            f"{asked} needs a calibrated file, and that of {model.name} is not; `resnet-export "
            "calibrate` does it"
        )
    return model.calibration


def _level(calibration: Calibration, asked: float, model: ServedModel) -> Coverage:
    """Return the lowest calibrated level that is not below what is asked."""
    found = next((one for one in calibration.coverage if one.level >= asked), None)
    if found is None:
        highest = calibration.coverage[-1].level
        raise CoverageLevelError(
            f"coverage is {asked:g}; {model.name} is calibrated up to {highest:g}"
        )
    return found


def _inside(model: ServedModel) -> Embedding:
    embedding = _calibration(model, "abstain").embedding
    if embedding is None:
        raise NotCalibratedError(
            f"abstain needs an embedding, which the file of {model.name} does not have"
        )
    if embedding.outside is None:
        raise NotCalibratedError(
            f"abstain needs a file that was judged by images from outside, and that of "
            f"{model.name} was not; `resnet-export calibrate --outside` does it"
        )
    return embedding


def _score(embedding: NDArray[np.float32], inside: Embedding) -> float:
    """Return the distance as a multiple of that up to which an image is inside."""
    mean, directions = inside.arrays
    if embedding.shape != mean.shape:
        raise InferenceError("the model's embedding is not the one that was calibrated")
    found = distances(embedding, mean, directions, inside.scales, inside.noise)
    if not np.isfinite(found):
        raise InferenceError("the model returned no finite embedding for this image")
    return float(found) / inside.limit
