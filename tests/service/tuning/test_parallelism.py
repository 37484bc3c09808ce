"""Which candidates are measured, and which is chosen, by given figures."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.tuning.parallelism import Parallelism, Trial, candidates, choose

ONE_EACH, ALL_FOR_ONE, MIDDLE = Parallelism(8, 1), Parallelism(1, 8), Parallelism(4, 5)


def threads_at_most(parallelism: Parallelism, models: int) -> int:
    """Runners, and the helpers of as many sessions as can run at once."""
    return parallelism.runners + min(models, parallelism.runners) * (
        parallelism.intra_op_threads - 1
    )


@pytest.mark.parametrize(
    ("cpus", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(2, 1), (1, 2)]),
        (3, [(3, 1), (1, 3)]),
        (4, [(4, 1), (1, 4), (2, 3)]),
        (8, [(8, 1), (1, 8), (4, 5)]),
        (9, [(9, 1), (1, 9), (4, 6)]),
    ],
)
def test_a_runner_for_each_cpu_one_for_all_and_from_four_on_a_middle_way(cpus, expected):
    assert candidates(cpus, 1) == [Parallelism(*parallelism) for parallelism in expected]


def test_sessions_that_can_run_at_once_share_the_cpus():
    """Each model's session has helpers of its own."""
    assert candidates(8, 2) == [ONE_EACH, ALL_FOR_ONE, Parallelism(4, 3)]
    assert candidates(8, 4) == [ONE_EACH, ALL_FOR_ONE, Parallelism(4, 2)]
    assert candidates(9, 9) == [Parallelism(9, 1), Parallelism(1, 9), Parallelism(4, 2)]


@given(cpus=st.integers(1, 300), models=st.integers(1, 20))
@settings(max_examples=300)
def test_no_layout_has_more_threads_than_cpus(cpus, models):
    options = candidates(cpus, models)
    assert options[0] == Parallelism(cpus, 1)
    assert 1 <= len(options) <= 3
    assert len(set(options)) == len(options)
    assert all(threads_at_most(parallelism, models) <= cpus for parallelism in options)


def test_what_is_given_is_not_tried():
    assert candidates(8, 1, runners=3, threads=5) == [Parallelism(3, 5)]


@pytest.mark.parametrize(
    ("runners", "expected"), [(1, 8), (2, 7), (4, 5), (7, 2), (8, 1), (9, 1), (64, 1)]
)
def test_with_runners_given_the_threads_fill_the_cpus(runners, expected):
    assert candidates(8, 1, runners=runners) == [Parallelism(runners, expected)]


@pytest.mark.parametrize(
    ("threads", "expected"), [(1, 8), (2, 7), (5, 4), (7, 2), (8, 1), (9, 1), (64, 1)]
)
def test_with_threads_given_the_runners_fill_the_cpus(threads, expected):
    assert candidates(8, 1, threads=threads) == [Parallelism(expected, threads)]


@given(cpus=st.integers(1, 64), models=st.integers(1, 8), number=st.integers(1, 64))
@settings(max_examples=300)
def test_with_one_given_the_other_is_kept_within_the_cpus(cpus, models, number):
    (by_runners,) = candidates(cpus, models, runners=number)
    (by_threads,) = candidates(cpus, models, threads=number)
    assert (by_runners.runners, by_threads.intra_op_threads) == (number, number)
    for parallelism in (by_runners, by_threads):
        within = threads_at_most(parallelism, models) <= cpus
        assert within or parallelism.runners == 1 or parallelism.intra_op_threads == 1


def trials(*figures: tuple[float, float], steady: bool = True) -> list[Trial]:
    """Of a runner for each CPU, one for all, and the middle way: images a second, and seconds."""
    options = (ONE_EACH, ALL_FOR_ONE, MIDDLE)
    return [
        Trial(parallelism, *figure, steady)
        for parallelism, figure in zip(options, figures, strict=False)
    ]


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((100, 90), ONE_EACH),
        ((100, 100), ONE_EACH),
        ((100, 104), ONE_EACH),  # may be noise
        ((100, 106), ALL_FOR_ONE),
        ((100, 106, 120), MIDDLE),
        ((100, 120, 106), ALL_FOR_ONE),
        ((100, 104, 104), ONE_EACH),
    ],
)
def test_for_throughput_a_layout_must_be_clearly_better_than_a_runner_for_each_cpu(rates, expected):
    assert choose(trials(*((rate, 0.1) for rate in rates)), "throughput") == expected


def test_figures_of_a_busy_machine_do_not_displace_a_runner_for_each_cpu():
    assert choose(trials((100, 0.1), (150, 0.1), steady=False), "throughput") == ONE_EACH


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ((0.010, 0.009), ALL_FOR_ONE),
        ((0.010, 0.011), ONE_EACH),  # threads that wait for each other may cost more than they do
        ((0.010, 0.009, 0.008), MIDDLE),
    ],
)
def test_for_latency_the_soonest_lone_answer_is_best(seconds, expected):
    """Whatever that costs in throughput."""
    figures = [(100 - 20 * i, lone_s) for i, lone_s in enumerate(seconds)]
    assert choose(trials(*figures), "latency") == expected
