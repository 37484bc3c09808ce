"""Sets of labels: those of several that an image has, and those that probably include its one.

The latter are adaptive prediction sets (Romano, Sesia, Candes, "Classification with Valid and
Adaptive Coverage", https://arxiv.org/abs/2006.02544) without randomisation, so the same image gets
the same set each time: the most probable labels, until their probabilities exceed a threshold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.errors import InferenceError

Labels = list[tuple[int, float]]
"""Class indices and probabilities, most probable first."""


def at_least(
    probabilities: NDArray[np.float32], thresholds: float | NDArray[np.float32], most: int
) -> Labels:
    """Return the classes of [C] that reach their threshold, at most `most` of them.

    Equal probabilities come in class order. Raises `InferenceError` if one is not finite.
    """
    if not np.isfinite(probabilities).all():
        raise InferenceError("the model returned no finite probabilities for this image")
    reached = np.flatnonzero(probabilities >= np.asarray(thresholds, np.float32))
    order = reached[np.argsort(-probabilities[reached], kind="stable")][:most]
    return [(int(index), float(probabilities[index])) for index in order]


_LEAST = float(np.finfo(np.float32).tiny)
"""In place of probabilities that float32 rounded to 0."""


def logits_of(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return logits with these softmax probabilities [..., C]."""
    logits: NDArray[np.float64] = np.log(np.maximum(probabilities.astype(np.float64), _LEAST))
    return logits


def tempered(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Return what the softmax gives for logits divided by `temperature`; of [..., C].

    Logits need not be known: they are the probabilities' logarithms, up to a sum that cancels.
    """
    logits = logits_of(probabilities) / temperature
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    normalised: NDArray[np.float64] = powers / powers.sum(axis=-1, keepdims=True)
    return normalised


def set_scores(tempered: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the probability [N] of the labels before the right one, of [N, C]; 0 if it is first.

    It is the lowest threshold at which an image's set has its label.
    """
    order = np.argsort(-tempered, axis=1, kind="stable")
    place = np.argmax(order == truth[:, None], axis=1)
    scores: NDArray[np.float64] = _before(tempered)[np.arange(len(truth)), place]
    return scores


def set_threshold(scores: NDArray[np.float64], level: float) -> float | None:
    """Return the threshold with which sets have the right label with probability `level`.

    It is the smallest score that (n + 1) x `level` of the n scores do not exceed, which holds for a
    further image if all are exchangeable. None if there are too few scores for the level.
    """
    rank = int(np.ceil((len(scores) + 1) * level))
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else None


def set_sizes(tempered: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """Return how many labels the sets have, one at least, of [..., C]."""
    sizes: NDArray[np.int64] = (_before(tempered) <= threshold).sum(axis=-1)
    return sizes


def _before(tempered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of the larger values before each, in descending order, of [..., C]."""
    falling = -np.sort(-tempered, axis=-1)
    before = np.zeros_like(falling)
    np.cumsum(falling[..., :-1], axis=-1, out=before[..., 1:])
    return before


def label_set(probabilities: NDArray[np.float32], temperature: float, threshold: float) -> Labels:
    """Return an image's set with tempered probabilities. Raises `InferenceError` as above."""
    if not np.isfinite(probabilities).all():
        raise InferenceError("the model returned no finite probabilities for this image")
    values = tempered(probabilities, temperature)
    size = int(set_sizes(values, threshold))
    # By what the model said, so that a tie after tempering changes no order.
    order = np.argsort(-probabilities, kind="stable")[:size]
    return [(int(index), float(values[index])) for index in order]
