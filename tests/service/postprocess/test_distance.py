"""The distance of an embedding from those that a model was calibrated with."""

from __future__ import annotations

import numpy as np

from service.postprocess.distance import distances


def test_it_is_the_mahalanobis_distance_of_the_whole_covariance():
    """Low rank and noise only save the inverse of a large matrix."""
    random = np.random.default_rng(0)
    directions = np.linalg.qr(random.normal(size=(8, 3)))[0].T
    variances, noise, mean = np.array([4.0, 2.0, 1.0]), 0.25, random.normal(size=8)
    covariance = noise * np.eye(8) + directions.T @ np.diag(variances - noise) @ directions
    points = random.normal(size=(20, 8))
    centred = points - mean
    squares = np.einsum("nd,de,ne->n", centred, np.linalg.inv(covariance), centred)
    found = distances(
        points.astype(np.float32), mean.astype(np.float32), directions.astype(np.float32),
        variances.astype(np.float32), noise,
    )  # fmt: skip
    np.testing.assert_allclose(found, np.sqrt(squares / 8), rtol=1e-4)


def test_one_embedding_has_one_distance():
    mean, directions = np.zeros(4, np.float32), np.eye(1, 4, dtype=np.float32)
    found = distances(np.full(4, 2, np.float32), mean, directions, np.array([4], np.float32), 1.0)
    assert found.shape == ()
    assert float(found) == np.sqrt((1 + 3 * 4) / 4)
