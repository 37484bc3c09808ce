"""Class activation maps: where in an image the evidence for a class lies.

Zhou, Khosla, Lapedriza, Oliva and Torralba, "Learning Deep Features for Discriminative
Localization", CVPR 2016. For networks that end in average pooling and one linear layer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.errors import InferenceError


def activation_map(
    features: NDArray[np.float32], weight: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the map [h, w] of one class, from features [D, h, w] and the class's weights [D].

    Its mean is the class's logit without the bias. Raises `InferenceError` if a value is not
    finite: a model that overflows has no map.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        values: NDArray[np.float32] = np.tensordot(weight, features, axes=1).astype(np.float32)
    if not np.isfinite(values).all():
        raise InferenceError("the model returned no finite features for this image")
    return values


def scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a map scaled to its own range, from 0 to 1; all 0 if it is the same everywhere."""
    least, spread = values.min(), np.ptp(values)
    if not spread:
        return np.zeros_like(values)
    result: NDArray[np.float32] = (values - least) / spread
    return result
