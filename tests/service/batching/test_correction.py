"""Plans and what came of them: a mean that follows, and a margin for how much it varies."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.correction import Correction

seconds = st.floats(1e-4, 10)


@given(seconds)
def test_plans_are_believed_until_something_was_answered(planned_s):
    assert Correction().at_most_s(planned_s) == planned_s


@given(st.lists(st.tuples(seconds, seconds)), seconds)
def test_nothing_is_hoped_to_be_sooner_than_planned(answers, planned_s):
    correction = Correction()
    for now, (before_s, took_s) in enumerate(answers):
        correction.learn(before_s, took_s, now)
    assert planned_s <= correction.at_most_s(planned_s) < 4 * (planned_s + 10)


@pytest.mark.parametrize(("factor", "counted_s"), [(0.5, 1.0), (1.0, 1.0), (1.5, 1.5), (100, 4.0)])
def test_what_always_takes_so_much_longer_is_counted_so_much_longer(factor, counted_s):
    """At most four times: one answer that took a minute must not close the door for long."""
    correction = Correction()
    for answer in range(1000):
        correction.learn(0.2, 0.2 * factor, answer / 20)
    assert correction.at_most_s(1.0) == pytest.approx(counted_s, rel=1e-3)


def test_what_varies_is_counted_with_a_margin_that_nearly_all_keep():
    correction, drawn = Correction(), random.Random(1)
    late = 0
    for answer in range(2000):
        took_s = drawn.gauss(1.2, 0.05)
        late += answer > 200 and took_s > correction.at_most_s(1.0)
        correction.learn(1.0, took_s, answer / 20)
    assert late <= 0.01 * 1800
    assert correction.at_most_s(1.0) < 1.5, "and not much more than that"


def test_long_waits_count_more_than_short_ones_with_their_overhead():
    """Answers of an idle service take twice the plan; that says nothing of a long queue."""
    correction = Correction()
    for answer in range(100):
        correction.learn(0.002, 0.004, answer / 100)
    assert correction.at_most_s(1.0) > 1.9
    for answer in range(10):
        correction.learn(0.5, 0.5, 1 + answer / 100)
    assert correction.at_most_s(1.0) < 1.2
