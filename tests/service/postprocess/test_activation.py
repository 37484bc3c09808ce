"""Class activation maps as numbers."""

from __future__ import annotations

import numpy as np
import pytest

from service.errors import InferenceError
from service.postprocess.activation import activation_map, scaled


def test_a_map_sums_the_features_by_the_classs_weights():
    """So its mean is that of the pooled features times the weights: the logit without bias."""
    random = np.random.default_rng(7)
    features = random.normal(size=(32, 3, 5)).astype(np.float32)
    weight = random.normal(size=32).astype(np.float32)
    found = activation_map(features, weight)
    assert found.shape == (3, 5)
    assert found[1, 2] == pytest.approx(float(weight @ features[:, 1, 2]), abs=1e-4)
    assert found.mean() == pytest.approx(float(weight @ features.mean(axis=(1, 2))), abs=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_a_model_that_overflows_has_no_map(value):
    features = np.full((2, 2, 2), value, np.float32)
    with pytest.raises(InferenceError):
        activation_map(features, np.full(2, 100, np.float32))


def test_a_map_is_scaled_to_its_own_range_and_an_even_one_to_nothing():
    assert scaled(np.array([[-2, 0], [2, 6]], np.float32)).tolist() == [[0, 0.25], [0.5, 1]]
    assert not scaled(np.full((2, 2), 7, np.float32)).any()
