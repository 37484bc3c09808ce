"""The k most probable classes.

Computed in numpy, outside the graph: k varies by request, and as a graph input it would rule out
CUDA graphs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from service.errors import InferenceError

_SORTED_WHOLE = 512
"""Up to this many classes, sorting all is faster than first selecting the largest."""


def top_k(probabilities: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
    """Return (class index, probability) of the `k` largest of [C], largest first.

    Equal probabilities come in class order, so that answers are repeatable. Raises `InferenceError`
    if one is NaN or the largest is infinite: a model that overflows has no answer.
    """
    best = int(probabilities.argmax())  # the index of a NaN, if there is one
    if not math.isfinite(probabilities[best]):
        raise InferenceError("the model returned no finite probabilities for this image")
    if k == 1:
        return [(best, float(probabilities[best]))]
    if k < probabilities.size and probabilities.size > _SORTED_WHOLE:
        threshold = np.partition(probabilities, -k)[-k]
        candidates = np.flatnonzero(probabilities >= threshold)
    else:
        candidates = np.arange(probabilities.size)
    order = candidates[np.argsort(-probabilities[candidates], kind="stable")][:k]
    return [(int(index), float(probabilities[index])) for index in order]
