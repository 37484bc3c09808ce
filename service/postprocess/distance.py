"""How far an embedding is from those that a model was calibrated with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def distances(
    embeddings: NDArray[np.float32],
    mean: NDArray[np.floating],
    directions: NDArray[np.floating],
    variances: NDArray[np.floating],
    noise: float,
) -> NDArray[np.float64]:
    """Return the Mahalanobis distances [N] of embeddings [N, D], in standard deviations.

    The distribution has k principal `directions` [k, D] with their `variances` [k], and `noise` is
    the variance in each of the other D - k (Tipping, Bishop, "Probabilistic Principal Component
    Analysis", J. R. Stat. Soc. B 61, 1999). Divided by the square root of D, so that 1 is usual.
    """
    centred = (embeddings - mean).astype(np.float64)
    along = centred @ directions.T
    rest = np.maximum((centred**2).sum(axis=-1) - (along**2).sum(axis=-1), 0)
    squares = (along**2 / variances).sum(axis=-1) + rest / noise
    found: NDArray[np.float64] = np.sqrt(squares / mean.size)
    return found
