"""Bounds that hold at every moment: never outside of what they must be, and covering as often."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.models.sequential import ConfidenceSequence

COUNTS = st.integers(0, 5000)
ERRORS = st.floats(0.001, 0.5)
SHARES = st.floats(0.01, 0.99)


@given(COUNTS, COUNTS, ERRORS)
def test_the_mean_lies_within_the_bounds(ones, zeros, error):
    lower, upper = ConfidenceSequence(error, ones, zeros).interval()
    assert 0 <= lower <= upper <= 1
    if ones + zeros:
        assert lower <= ones / (ones + zeros) <= upper


@given(COUNTS, COUNTS, ERRORS)
def test_zeros_and_ones_are_treated_alike(ones, zeros, error):
    lower, upper = ConfidenceSequence(error, ones, zeros).interval()
    mirrored = ConfidenceSequence(error, zeros, ones).interval()
    assert (1 - upper, 1 - lower) == pytest.approx(mirrored, abs=1e-9)


@given(COUNTS, COUNTS, ERRORS, SHARES)
def test_a_decision_is_what_the_bounds_say(ones, zeros, error, share):
    sequence = ConfidenceSequence(error, ones, zeros)
    lower, upper = sequence.interval()
    if abs(lower - share) > 1e-9:
        assert sequence.is_at_least(share) == (lower > share)
    if abs(upper - share) > 1e-9:
        assert sequence.is_below(share) == (upper < share)


@given(COUNTS, COUNTS, ERRORS, ERRORS)
def test_who_accepts_more_errors_gets_narrower_bounds(ones, zeros, one, other):
    smaller, larger = sorted((one, other))
    wide = ConfidenceSequence(smaller, ones, zeros).interval()
    narrow = ConfidenceSequence(larger, ones, zeros).interval()
    assert wide[0] <= narrow[0] + 1e-9
    assert narrow[1] <= wide[1] + 1e-9


def test_nothing_is_known_before_the_first_observation():
    sequence = ConfidenceSequence(0.05)
    assert sequence.interval() == (0, 1)
    assert not sequence.is_at_least(0.01)
    assert not sequence.is_below(0.99)


def test_bounds_close_in_on_the_share():
    widths = []
    for size in (10, 100, 1000, 10_000):
        lower, upper = ConfidenceSequence(0.05, ones=size * 9 // 10, zeros=size // 10).interval()
        widths.append(upper - lower)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.03


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_looking_at_every_moment_misses_the_share_no_more_often_than_allowed(share):
    """2,000 sequences of 1,000 observations each; the seed is fixed, so this can't vary.

    With an error of 0.1, misses are binomial with at most 200 expected; 40 is three deviations.
    """
    draws = random.Random(f"coverage of {share}")
    error, misses = 0.1, 0
    for _ in range(2000):
        sequence = ConfidenceSequence(error)
        for _ in range(1000):
            sequence.note(one=draws.random() < share)
            if sequence._excludes(share):
                misses += 1
                break
    assert misses <= 240


def test_an_ordinary_interval_would_miss_it_more_often():
    """What the sequence is for: with 1.645 deviations, 0.1 is promised, and not kept."""
    draws = random.Random("an ordinary interval")
    misses = 0
    for _ in range(300):
        ones = 0
        for size in range(1, 1001):
            ones += draws.random() < 0.5
            if size >= 20 and abs(ones - size / 2) > 1.645 * (size / 4) ** 0.5:
                misses += 1
                break
    assert misses > 90


@pytest.mark.parametrize(
    ("true", "decides"), [(1.0, "at least"), (0.999, "at least"), (0.8, "below")]
)
def test_a_clear_case_is_decided_soon(true, decides):
    draws = random.Random(f"a clear case of {true}")
    sequence = ConfidenceSequence(0.05)
    while not (sequence.is_at_least(0.95) or sequence.is_below(0.95)):
        sequence.note(one=draws.random() < true)
    assert sequence.observations < 400
    assert sequence.is_below(0.95) == (decides == "below")
