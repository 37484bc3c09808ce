"""What a calibration fits, on answers whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import log_loss, roc_auc_score

from model_export.calibration import (
    LEVELS,
    Answers,
    auroc,
    embedding_of,
    fit_coverage,
    fit_directions,
    fit_temperature,
    reliability,
)
from service.postprocess.label_sets import tempered


def answers(count: int, temperature: float, seed: int = 0, classes: int = 6) -> Answers:
    """Labels drawn from a softmax, and the probabilities of one whose logits are larger."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (count, classes))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (true.cumsum(axis=1) > random.random((count, 1))).argmax(axis=1)
    said = np.exp(logits * temperature)
    said /= said.sum(axis=1, keepdims=True)
    return Answers(truth, said.astype(np.float32), None)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_is_that_by_which_the_logits_are_too_large(temperature):
    found = fit_temperature(answers(20_000, temperature))
    assert found == pytest.approx(temperature, rel=0.05)


def test_the_temperature_has_the_lowest_likelihood_loss():
    some = answers(500, 2.5, seed=3)
    best = fit_temperature(some)
    losses = [
        log_loss(some.truth, tempered(some.probabilities, best * factor), labels=range(6))
        for factor in (0.9, 0.99, 1, 1.01, 1.1)
    ]
    assert min(losses) == losses[2]


@pytest.mark.parametrize("right", [True, False])
def test_a_model_that_is_always_right_or_wrong_keeps_its_probabilities(right):
    sure = np.tile(np.array([1, 0, 0], np.float32), (30, 1))
    truth = np.zeros(30, np.int64) if right else np.ones(30, np.int64)
    assert fit_temperature(Answers(truth, sure, None)) == 1


def test_reliability_is_better_with_the_right_temperature():
    some = answers(20_000, 3.0)
    before, after = reliability(some), reliability(some, 3.0)
    assert before.ece > 0.1
    assert after.ece < 0.02
    assert after.nll < before.nll
    assert before.nll == pytest.approx(
        log_loss(some.truth, tempered(some.probabilities, 1.0)), rel=1e-4
    )


def test_coverage_holds_on_images_that_fitted_nothing():
    """At each level, up to chance; with few images, the high levels are left out."""
    fit, test = answers(4000, 1.7, seed=1), answers(40_000, 1.7, seed=2)
    found = fit_coverage(fit, test, 1.2)
    assert tuple(one.level for one in found) == LEVELS
    for one in found:
        assert one.measured >= one.level - 4 * np.sqrt(one.level * (1 - one.level) / 4000)
    few = fit_coverage(answers(20, 1.7), test, 1.0)
    assert few[-1].level == 0.95


def test_directions_are_those_of_probabilistic_pca():
    """As scikit-learn's, whose score is that normal distribution's."""
    random = np.random.default_rng(0)
    low_rank = random.normal(size=(400, 5)) @ random.normal(size=(5, 12)) * 2
    values = (low_rank + random.normal(scale=0.3, size=(400, 12))).astype(np.float32)
    found = fit_directions(values)
    rank = len(found.variances)
    other = PCA(n_components=11).fit(values)
    assert rank == 11
    np.testing.assert_allclose(found.variances, other.explained_variance_, rtol=1e-3)
    assert found.noise == pytest.approx(other.noise_variance_, rel=1e-3)
    whole = np.linalg.inv(np.cov(values.T))
    centred = values - values.mean(axis=0)
    squares = np.einsum("nd,de,ne->n", centred, whole, centred)
    np.testing.assert_allclose(found.distances(values), np.sqrt(squares / 12), rtol=1e-3)


@pytest.mark.parametrize(("count", "size"), [(30, 1), (30, 2), (30, 500), (200, 3000)])
def test_directions_of_any_size_can_be_written(count, size):
    """Also with fewer images than dimensions, and in a calibration's room."""
    values = np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)
    found = embedding_of(fit_directions(values), 0.9, values, values, None)
    assert found is not None
    assert found.arrays[1].shape[1] == size
    assert len(found.model_dump_json()) < 900_000


def test_an_embedding_that_never_varies_can_be_written():
    values = np.full((30, 4), 7, np.float32)
    found = fit_directions(values)
    assert np.isfinite(found.distances(values + 1)).all()


@given(
    low=st.lists(st.integers(0, 9), min_size=1, max_size=30),
    high=st.lists(st.integers(0, 9), min_size=1, max_size=30),
)
def test_the_auroc_is_scikit_learns(low, high):
    """With ties, too."""
    expected = roc_auc_score([0] * len(low) + [1] * len(high), low + high)
    assert auroc(np.array(low, float), np.array(high, float)) == pytest.approx(expected)
