"""The k most probable classes.

In numpy, outside the graph: k varies with the request, and a k as graph input would forbid CUDA
graphs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from service.errors import InferenceError

_SORTED_WHOLE = 512
"""So few classes are sorted sooner than searched for the largest first."""


def top_k(probabilities: NDArray[np.float32], k: int) -> list[tuple[int, float]]:
    """Return (class index, probability) of the `k` largest of [C], largest first.

    Equal probabilities come in class order, so that an answer is repeatable. Raises
    `InferenceError` when some are no numbers: a model that overflows has no answer.
    """
    best = int(probabilities.argmax())  # of a NaN, if there is one
    if not math.isfinite(probabilities[best]):
        raise InferenceError("the model gave no finite probabilities for this image")
    if k == 1:
        return [(best, float(probabilities[best]))]
    if k < probabilities.size and probabilities.size > _SORTED_WHOLE:
        threshold = np.partition(probabilities, -k)[-k]
        candidates = np.flatnonzero(probabilities >= threshold)
    else:
        candidates = np.arange(probabilities.size)
    order = candidates[np.argsort(-probabilities[candidates], kind="stable")][:k]
    return [(int(index), float(probabilities[index])) for index in order]
