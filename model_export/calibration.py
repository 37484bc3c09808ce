"""Fits what a calibration holds (`service.calibration`, which names the sources), in NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.calibration import Coverage, Embedding, Outside, Reliability, encoded
from service.postprocess.distance import distances
from service.postprocess.label_sets import (
    logits_of,
    set_scores,
    set_sizes,
    set_threshold,
    tempered,
)

LEVELS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99)
"""The levels of coverage for which thresholds are fitted."""

BINS = 15
_HOTTEST = 20.0
"""The highest temperature, and the reciprocal of the lowest."""

_EDGE = 0.999
_STEPS = 40  # bisections, more than float32's logits can tell apart
_MOST_DIRECTIONS = 64
_MOST_VALUES = 160_000
"""Values of all directions together: 0.85 MB in base64, of the 1 MB that a calibration may have."""

_LEAST_NOISE = 1e-6
"""Of the total variance in a direction: where nothing varies, anything else would be infinitely
far away."""


@dataclass(frozen=True, slots=True)
class Answers:
    """A model's answers to N labelled images: probabilities [N, C] and embeddings [N, D]."""

    truth: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    embeddings: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.truth)

    def part(self, indices: NDArray[np.int64]) -> Answers:
        """Return the answers to some of the images."""
        embeddings = None if self.embeddings is None else self.embeddings[indices]
        return Answers(self.truth[indices], self.probabilities[indices], embeddings)


def fit_temperature(answers: Answers) -> float:
    """Return the temperature with the lowest mean negative log-likelihood.

    That is convex in the reciprocal, whose derivative is the mean logit less that of the right
    label; its zero is found by bisection. Without one within a factor of 20 around 1, as for a
    model that is right about all images, these show nothing, and the temperature is 1.
    """
    logits = logits_of(answers.probabilities)
    logits -= logits.max(axis=1, keepdims=True)
    right = logits[np.arange(len(answers)), answers.truth].mean()
    low, high = 1 / _HOTTEST, _HOTTEST
    for _ in range(_STEPS):
        middle = float(np.sqrt(low * high))
        powers = np.exp(logits * middle)
        mean = ((powers * logits).sum(axis=1) / powers.sum(axis=1)).mean()
        low, high = (middle, high) if mean <= right else (low, middle)
    found = 1 / float(np.sqrt(low * high))
    return _short(found) if found * _EDGE > 1 / _HOTTEST and found < _HOTTEST * _EDGE else 1.0


def reliability(answers: Answers, temperature: float = 1.0) -> Reliability:
    """Return how far (tempered) probabilities are from the truth."""
    values = tempered(answers.probabilities, temperature)
    right = values[np.arange(len(answers)), answers.truth]
    nll = -np.log(np.maximum(right, np.finfo(np.float64).tiny)).mean()
    sure, hit = values.max(axis=1), values.argmax(axis=1) == answers.truth
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, sure - hit, BINS)
    return Reliability(
        nll=_short(max(0.0, float(nll))), ece=_short(np.abs(gaps).sum() / len(answers))
    )


def fit_coverage(fit: Answers, test: Answers, temperature: float) -> tuple[Coverage, ...]:
    """Return the thresholds that `fit` has images enough for, measured on `test`."""
    scores = set_scores(tempered(fit.probabilities, temperature), fit.truth)
    values = tempered(test.probabilities, temperature)
    tested = set_scores(values, test.truth)
    found = []
    for level in LEVELS:
        threshold = set_threshold(scores, level)
        if threshold is None:
            break
        found.append(
            Coverage(
                level=level,
                threshold=threshold,
                measured=float((tested <= threshold).mean()),
                labels=float(set_sizes(values, threshold).mean()),
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Directions:
    """The distribution of the embedding, as `service.postprocess.distance` takes it."""

    mean: NDArray[np.float32]
    directions: NDArray[np.float32]
    variances: NDArray[np.float32]
    noise: float

    def distances(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the distances [N] of embeddings [N, D]."""
        return distances(embeddings, self.mean, self.directions, self.variances, self.noise)


def fit_directions(embeddings: NDArray[np.float32]) -> Directions:
    """Return the maximum likelihood of probabilistic PCA for embeddings [N, D]."""
    count, size = embeddings.shape
    values = embeddings.astype(np.float64)
    mean = values.mean(axis=0)
    variances, vectors = np.linalg.eigh(np.cov(values.T).reshape(size, size))
    variances, vectors = np.maximum(variances[::-1], 0), vectors[:, ::-1]
    rank = max(1, min(_MOST_DIRECTIONS, _MOST_VALUES // size, size - 1, count - 1))
    least = max(_LEAST_NOISE * float(variances.sum()) / size, float(np.finfo(np.float32).tiny))
    noise = max(float(variances[rank:].sum()) / max(size - rank, 1), least)
    return Directions(
        mean.astype(np.float32),
        vectors[:, :rank].T.astype(np.float32),
        np.maximum(variances[:rank], noise).astype(np.float32),
        float(np.float32(noise)),
    )


def embedding_of(
    found: Directions,
    kept: float,
    fit: NDArray[np.float32],
    test: NDArray[np.float32],
    others: tuple[str, NDArray[np.float32]] | None,
) -> Embedding | None:
    """Return the statistics with the distance that `kept` of the images in `fit` do not exceed.

    `others` are a name and the embeddings of images from outside. None if `fit` has too few images.
    """
    limit = set_threshold(found.distances(fit), kept)
    if limit is None:
        return None
    inside = found.distances(test)
    outside = None
    if others is not None:
        away = found.distances(others[1])
        outside = Outside(
            data_set=others[0],
            images=len(away),
            auroc=_short(auroc(inside, away)),
            marked=float((away > limit).mean()),
        )
    return Embedding(
        mean=encoded(found.mean),
        directions=encoded(found.directions),
        variances=tuple(map(float, found.variances)),
        noise=found.noise,
        kept=kept,
        limit=limit,
        inside=float((inside <= limit).mean()),
        outside=outside,
    )


def auroc(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Return the probability that one of `high` exceeds one of `low`; a tie counts half."""
    ordered = np.sort(low)
    below = np.searchsorted(ordered, high, "left") + np.searchsorted(ordered, high, "right")
    return float(below.mean() / (2 * len(low)))


def _short(value: float) -> float:
    return float(f"{value:.6g}")
