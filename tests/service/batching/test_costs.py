"""Predictions of how long jobs take: by kind and size, taught by what jobs took."""

from __future__ import annotations

import pytest
from clock import Clock, simulated_time
from hypothesis import given
from hypothesis import strategies as st

from service.batching.costs import NO_WORK, UNKNOWN_WORK, JobCosts, Work

PNG = Work("png", 50_000_000, 403_000)
SMALL_PNG = Work("png", 64 * 64, 8_000)
JPEG = Work("jpeg", 640 * 480, 60_000)

works = st.builds(
    Work,
    kind=st.sampled_from(["jpeg", "png", "gif", "form", "something new"]),
    pixels=st.integers(0, 10**8),
    size=st.integers(0, 10**8),
)


@pytest.fixture(autouse=True)
def clock():
    clock = Clock()
    with simulated_time(clock):
        yield clock


def test_at_first_an_image_is_expected_to_take_what_its_format_and_size_say():
    costs = JobCosts()
    assert 0.4 < costs.expect_s(PNG) < 4
    assert costs.expect_s(SMALL_PNG) < 0.002
    full, reduced, progressive = [
        costs.expect_s(Work(kind, 12_000_000, 2_000_000))
        for kind in ("jpeg", "jpeg reduced", "jpeg progressive")
    ]
    assert reduced < full / 2 < progressive / 3
    assert costs.expect_s(NO_WORK) < costs.expect_s(UNKNOWN_WORK) < 0.001


def test_one_large_image_says_little_of_small_ones_and_nothing_of_other_formats():
    costs = JobCosts()
    small_s, jpeg_s = costs.expect_s(SMALL_PNG), costs.expect_s(JPEG)
    costs.learn(PNG, 40.0)
    assert costs.expect_s(SMALL_PNG) < 1.1 * small_s
    assert costs.expect_s(JPEG) == jpeg_s


@pytest.mark.parametrize("factor", [0.1, 0.5, 3.0, 10.0])
def test_predictions_follow_a_machine_that_is_slower_or_faster(factor):
    costs = JobCosts()
    slow = {work: factor * costs.expect_s(work) for work in (JPEG, PNG, SMALL_PNG)}
    for _ in range(40):
        for work, took_s in slow.items():
            costs.learn(work, took_s)
    for work, took_s in slow.items():
        assert costs.expect_s(work) == pytest.approx(took_s, rel=0.1)


def test_costs_of_a_pixel_and_of_a_byte_are_told_apart():
    """Photos and flat pictures of one format, on a machine whose inflate is slow."""
    costs = JobCosts()

    def took_s(work: Work) -> float:
        return 0.0005 + 16e-9 * work.pixels + 100e-9 * work.size

    photo, flat = Work("png", 3_000_000, 5_000_000), Work("png", 3_000_000, 12_000)
    for _ in range(100):
        for work in (photo, flat):
            costs.learn(work, took_s(work))
    for work in (photo, flat):
        assert costs.expect_s(work) == pytest.approx(took_s(work), rel=0.1)


@given(works, st.floats(0, 1e6))
def test_one_job_changes_a_prediction_by_a_third_at_most(work, took_s):
    costs = JobCosts()
    before_s = costs.expect_s(work)
    costs.learn(work, took_s)
    assert before_s / 1.36 <= costs.expect_s(work) <= before_s * 1.36


@given(st.lists(st.tuples(works, st.floats(0, 1e6)), max_size=200), works)
def test_predictions_stay_within_bounds_whatever_they_are_taught(lessons, work):
    first_s, costs = JobCosts().expect_s(work), JobCosts()
    for other, took_s in lessons:
        costs.learn(other, took_s)
    assert first_s / 33 <= costs.expect_s(work) <= first_s * 33


def test_what_was_learnt_fades(clock):
    """Costs that keep a kind of image out could never be found to be wrong."""
    costs = JobCosts()
    first_s = costs.expect_s(JPEG)
    for _ in range(100):
        costs.learn(JPEG, 20 * first_s)
    assert costs.expect_s(JPEG) > 15 * first_s
    clock.now += 60
    assert 2 * first_s < costs.expect_s(JPEG) < 4 * first_s
    clock.now += 600
    assert costs.expect_s(JPEG) == pytest.approx(first_s, rel=0.01)
