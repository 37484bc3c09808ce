"""Sets of labels: independent ones, and those that cover the right one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.errors import InferenceError
from service.postprocess.label_sets import (
    at_least,
    label_set,
    set_scores,
    set_sizes,
    set_threshold,
    tempered,
)

P = np.array([0.1, 0.5, 0.05, 0.35], np.float32)


def test_labels_that_reach_the_threshold_come_most_probable_first():
    """The threshold itself is enough; with equal probabilities, classes are in order."""
    assert at_least(P, 0.1, 4) == [
        (1, 0.5),
        (3, pytest.approx(0.35)),
        (0, pytest.approx(0.1)),
    ]
    assert [index for index, _ in at_least(np.full(4, 0.5, np.float32), 0.5, 3)] == [0, 1, 2]
    assert at_least(P, 0.9, 4) == []


def test_each_label_can_have_a_threshold_of_its_own():
    thresholds = np.array([0.1, 0.6, 0.01, 0.4], np.float32)
    assert [index for index, _ in at_least(P, thresholds, 4)] == [0, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_has_no_labels(bad):
    broken = np.array([0.5, bad], np.float32)
    for call in (lambda: at_least(broken, 0.5, 2), lambda: label_set(broken, 1.0, 0.9)):
        with pytest.raises(InferenceError):
            call()


def test_a_temperature_is_a_division_of_the_logits():
    logits = np.random.default_rng(0).normal(0, 3, (5, 7))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    cooler = np.exp(logits / 1.7) / np.exp(logits / 1.7).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(tempered(softmax.astype(np.float32), 1.7), cooler, rtol=1e-5)


def test_a_probability_that_was_rounded_to_nothing_is_next_to_nothing():
    np.testing.assert_allclose(tempered(np.array([1, 0, 0], np.float32), 2.0), [1, 0, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("threshold", "indices"),
    [(0, [1]), (0.49, [1]), (0.51, [1, 3]), (0.84, [1, 3]), (0.86, [1, 3, 0]), (1, [1, 3, 0, 2])],
)
def test_a_set_has_labels_until_they_exceed_the_threshold(threshold, indices):
    assert [index for index, _ in label_set(P, 1.0, threshold)] == indices


def test_a_set_shows_tempered_probabilities():
    found = label_set(P, 0.5, 0.7)
    squares = P.astype(float) ** 2 / (P.astype(float) ** 2).sum()
    assert found == [(1, pytest.approx(squares[1])), (3, pytest.approx(squares[3]))]


scores = hnp.arrays(np.float64, st.integers(1, 300), elements=st.floats(0, 1))


@given(scores=scores, level=st.floats(0.01, 0.99))
def test_the_threshold_is_the_smallest_that_enough_scores_do_not_exceed(scores, level):
    """Of n scores and one more, (n + 1) x level; without enough of them, there is none."""
    threshold, needed = set_threshold(scores, level), np.ceil((len(scores) + 1) * level)
    if needed > len(scores):
        assert threshold is None
        return
    assert (scores <= threshold).sum() >= needed
    assert (scores < threshold).sum() < needed


@given(seed=st.integers(0, 2**32 - 1), threshold=st.floats(0.01, 1))
def test_a_set_has_the_labels_whose_score_does_not_exceed_the_threshold(seed, threshold):
    """That is what makes the threshold of scores one of sets."""
    random = np.random.default_rng(seed)
    values = random.dirichlet(np.full(6, 0.5), 4)
    sizes = set_sizes(values, threshold)
    for row, size in zip(values, sizes, strict=True):
        truths = np.arange(6)
        inside = set_scores(np.tile(row, (6, 1)), truths) <= threshold
        assert inside[row.argmax()]
        assert set(np.argsort(-row, kind="stable")[:size]) == set(np.flatnonzero(inside))


def test_sets_cover_as_many_images_as_they_promise():
    """Whatever the probabilities are worth: here those of a model that is wrong about all."""
    random = np.random.default_rng(5)
    kept = []
    for _ in range(200):
        values = random.dirichlet(np.full(5, 0.3), 300)
        truth = random.integers(0, 5, 300)
        found = set_scores(values, truth)
        threshold = set_threshold(found[:150], 0.8)
        assert threshold is not None
        kept.append((found[150:] <= threshold).mean())
    assert 0.79 <= np.mean(kept) <= 0.82
