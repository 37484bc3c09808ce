"""The k most probable classes, against sorting them all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InferenceError
from service.postprocess.top_k import top_k

# Few different values, so that there are ties, and any at all.
values = st.sampled_from([0.0, 0.1, 0.25, 1.0]) | st.floats(0, 1, width=32)


@given(probabilities=st.lists(values, min_size=1, max_size=60), data=st.data())
@settings(max_examples=300)
def test_it_gives_the_first_k_of_all_sorted(probabilities, data):
    """Largest first, and equal ones in class order: an answer is repeatable."""
    probabilities *= data.draw(st.sampled_from([1, 600]))  # many are searched in another way
    k = data.draw(st.integers(1, len(probabilities)))
    array = np.array(probabilities, np.float32)
    everything = sorted(enumerate(array.tolist()), key=lambda pair: (-pair[1], pair[0]))
    assert top_k(array, k) == everything[:k]


def test_equal_probabilities_come_in_class_order():
    assert top_k(np.full(1000, 0.001, np.float32), 3) == [
        (0, pytest.approx(0.001)), (1, pytest.approx(0.001)), (2, pytest.approx(0.001)),
    ]  # fmt: skip


def test_a_tie_at_the_edge_keeps_the_lower_class():
    probabilities = np.array([0.1, 0.3, 0.2, 0.2, 0.2], np.float32)
    assert [index for index, _ in top_k(probabilities, 3)] == [1, 2, 3]


def test_all_classes_can_be_asked_for():
    assert [index for index, _ in top_k(np.array([0.2, 0.5, 0.3], np.float32), 3)] == [1, 2, 0]


def test_it_gives_plain_numbers():
    """Numpy's do not go into JSON."""
    ((index, probability),) = top_k(np.array([0.25, 0.5], np.float32), 1)
    assert (type(index), type(probability)) == (int, float)


def test_the_probabilities_are_left_as_they_are():
    """They are a row of the whole batch's answer."""
    probabilities = np.array([0.2, 0.5, 0.3], np.float32)
    top_k(probabilities, 2)
    assert probabilities.tolist() == np.array([0.2, 0.5, 0.3], np.float32).tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_probabilities_that_are_no_numbers_are_an_inference_error(bad):
    """A model that overflows on an image must not answer with no labels and status 200."""
    with pytest.raises(InferenceError, match="finite"):
        top_k(np.array([0.2, bad, 0.3], np.float32), 2)
