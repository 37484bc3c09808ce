"""Plans and what came of them: a factor that follows, and a margin for how much it varies."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.prediction_error import PredictionErrors

seconds = st.floats(1e-4, 10)


def taught(
    answers: Iterable[tuple[float, float]], gap_s: float = 0.05
) -> tuple[PredictionErrors, float]:
    """Return an estimate that has learned of planned and taken seconds, and the time after that."""
    prediction_errors, now = PredictionErrors(), 100.0
    for planned_s, took_s in answers:
        now += gap_s
        prediction_errors.learn(planned_s, took_s, now)
    return prediction_errors, now


@given(seconds)
def test_plans_are_believed_until_something_was_answered(planned_s):
    assert PredictionErrors().expected_s(planned_s, 5.0) == planned_s
    assert PredictionErrors().margin_s(5.0) == 0


@given(st.lists(st.tuples(seconds, seconds)), seconds)
def test_nothing_is_expected_sooner_than_planned_or_more_than_four_times_later(answers, planned_s):
    prediction_errors, now = taught(answers)
    assert planned_s <= prediction_errors.expected_s(planned_s, now) <= 4.0001 * planned_s
    assert 0 <= prediction_errors.margin_s(now) <= 4 * 4 * 10


@pytest.mark.parametrize(("factor", "counted"), [(0.5, 1.0), (1.0, 1.0), (1.5, 1.5), (100, 4.0)])
def test_what_always_takes_so_much_longer_is_counted_so_much_longer(factor, counted):
    """At most four times: one answer that took a minute must not close the door for long."""
    prediction_errors, now = taught([(0.2, 0.2 * factor)] * 1000)
    assert prediction_errors.expected_s(0.2, now) == pytest.approx(0.2 * counted, rel=0.03)
    assert prediction_errors.margin_s(now) == pytest.approx(0, abs=1e-6)


def test_what_varies_is_counted_with_a_margin_that_nearly_all_keep():
    drawn = random.Random(1)
    prediction_errors, now = PredictionErrors(), 0.0
    late = 0
    for answer in range(2000):
        now += 0.05
        took_s = drawn.gauss(1.2, 0.05)
        limit_s = prediction_errors.expected_s(1.0, now) + prediction_errors.margin_s(now)
        late += answer > 200 and took_s > limit_s
        prediction_errors.learn(1.0, took_s, now)
    assert late <= 0.01 * 1800
    assert prediction_errors.expected_s(1.0, now) + prediction_errors.margin_s(now) < 1.45, (
        "and not much more"
    )


def test_all_answers_of_a_batch_count_alike():
    """They come in the same moment; of the first alone, one would think that plans were right."""
    prediction_errors, now = PredictionErrors(), 0.0
    for _ in range(200):
        now += 0.05
        for planned_s in (0.3, 0.2, 0.1, 0.1):
            prediction_errors.learn(planned_s, 0.3, now)
    assert prediction_errors.expected_s(1.0, now) == pytest.approx(1.2 / 0.7, rel=0.01)


def test_short_waits_say_little_of_long_ones():
    """Answers of an idle service take twice the plan; that says nothing of a long queue."""
    prediction_errors, now = taught([(0.002, 0.004)] * 100)
    assert prediction_errors.expected_s(0.002, now) > 0.0035
    assert prediction_errors.expected_s(1.0, now) < 1.2
    for _ in range(10):
        now += 0.01
        prediction_errors.learn(0.5, 0.5, now)
    assert prediction_errors.expected_s(0.5, now) < 0.52


def test_what_was_learned_is_forgotten_where_nothing_new_is_learned():
    """Or a door that is closed by it would stay closed."""
    prediction_errors, now = taught([(1.0, 1.0), (1.0, 4.0)] * 100)
    assert prediction_errors.expected_s(1.0, now) > 2
    assert prediction_errors.margin_s(now) > 2
    assert prediction_errors.expected_s(1.0, now + 120) < 1.01
    assert prediction_errors.margin_s(now + 120) < 0.01
