"""Who is let in is answered in time, whoever comes later: decoding and inference, simulated."""

from __future__ import annotations

import random

import pytest
from clock import Clock, simulated_time
from hypothesis import given
from hypothesis import strategies as st
from simulated_server import Outcome, Request, simulate

from service.batching.costs import JobCosts, Work
from service.batching.ticket import Priority

HIGH, LOW = Priority.HIGH, Priority.LOW
TINY, PHOTO = Work("jpeg", 64 * 64, 2_000), Work("jpeg", 4_000_000, 1_000_000)
HUGE = Work("png", 50_000_000, 403_000)
DAY_S = 86_400.0
BATCHES_DO_NOT_PAY = [0.01 * size for size in range(1, 9)]


def requests(models: int, priorities: list[Priority]) -> st.SearchStrategy[list[Request]]:
    """Tiny to huge images, whose deadlines are from 50 ms to a day away."""
    images = st.lists(st.sampled_from([TINY, TINY, PHOTO, HUGE]), min_size=1, max_size=4)
    one = st.builds(
        Request,
        gap_s=st.one_of(st.just(0.0), st.floats(0, 0.5)),
        time_s=st.one_of(st.floats(0.05, 3), st.floats(0.05, DAY_S)),
        works=images.map(tuple),
        model=st.integers(0, models - 1),
        priority=st.sampled_from(priorities),
    )
    return st.lists(one, min_size=1, max_size=60)


def broken(outcomes: list[Outcome]) -> list[Outcome]:
    """Give who was let in by a plan, and was late."""
    return [
        outcome
        for outcome in outcomes
        if outcome.was == "late" and not outcome.tried and outcome.request.priority is HIGH
    ]


def share(outcomes: list[Outcome], was: str) -> float:
    return sum(outcome.was == was for outcome in outcomes) / len(outcomes)


@pytest.fixture
def clock():
    clock = Clock()
    with simulated_time(clock):
        yield clock


@given(those=requests(1, [HIGH, LOW]), threads=st.integers(1, 4))
def test_every_promise_is_kept_where_images_take_what_they_are_expected_to(those, threads):
    clock = Clock()
    with simulated_time(clock):
        assert broken(simulate(clock, those, [BATCHES_DO_NOT_PAY], threads)) == []


@given(those=requests(2, [HIGH]), slower=st.floats(0.3, 3))
def test_every_promise_is_kept_to_two_models_on_one_thread(those, slower):
    clock = Clock()
    tables = [BATCHES_DO_NOT_PAY, [slower * seconds for seconds in BATCHES_DO_NOT_PAY]]
    with simulated_time(clock):
        assert broken(simulate(clock, those, tables, 1)) == []


def test_a_huge_image_shuts_out_no_tiny_ones_while_another_thread_is_free(clock):
    """Nor afterwards, though it took longer than all of them."""
    huge = [Request(0.05, DAY_S, (HUGE,)) for _ in range(5)]
    tiny = [Request(0.02, 0.1, (TINY,)) for _ in range(500)]
    outcomes = simulate(clock, [huge[0], *tiny, huge[1], *tiny], [BATCHES_DO_NOT_PAY], 2)
    assert share(outcomes, "answered") == 1


def test_what_has_a_day_keeps_nobody_out_and_is_answered_in_the_end(clock):
    """A hundred huge images take 40 s; they wait for all that is due earlier."""
    forms = [Request(0.0, DAY_S, (HUGE,) * 10) for _ in range(10)]
    others = [Request(0.1, 5.0, (PHOTO,)) for _ in range(500)]
    outcomes = simulate(clock, [*forms, *others], [BATCHES_DO_NOT_PAY], 2)
    assert share(outcomes, "answered") == 1
    assert all(outcome.took_s < 2 for outcome in outcomes[len(forms) :])


BUSY_S, THREADS = 12, 2


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("deadlines_s", [[1.0], [0.2, 1.0, 10.0, 100.0, DAY_S]])
@pytest.mark.parametrize("slower", [0.5, 1.0, 4.0])
def test_under_overload_nearly_all_who_are_let_in_are_answered_and_threads_are_kept_busy(
    clock, seed, deadlines_s, slower
):
    """Twice as much comes as can be done, and no image takes what it is expected to.

    The machine is faster or slower than the one on which costs were measured, and some images take
    three times as long as others of their size.
    """
    chance, costs, infer_s = random.Random(seed), JobCosts(), BATCHES_DO_NOT_PAY[0]
    drawn, work_s = [], 0.0
    while work_s < 2 * THREADS * BUSY_S:
        work = chance.choices([TINY, PHOTO, HUGE], [80, 19, 1])[0]
        work_s += slower * costs.expect_s(work) + infer_s
        drawn.append((work, chance.choice(deadlines_s), chance.expovariate(1.0)))
    pace = BUSY_S / sum(gap for _, _, gap in drawn)
    those = [Request(gap * pace, deadline_s, (work,)) for work, deadline_s, gap in drawn]

    def decode_s(work: Work) -> float:
        return slower * costs.expect_s(work) * chance.lognormvariate(-0.125, 0.5)

    outcomes = simulate(clock, those, [BATCHES_DO_NOT_PAY], THREADS, decode_s=decode_s, limit=256)
    taught = [outcome for outcome in outcomes if outcome.arrived > outcomes[0].arrived + BUSY_S / 2]
    let_in = [outcome for outcome in taught if outcome.was != "refused"]
    assert len(broken(let_in)) <= 0.03 * len(let_in)
    done_s = sum(
        slower * costs.expect_s(outcome.request.works[0]) + infer_s
        for outcome in outcomes
        if outcome.was == "answered"
    )
    assert done_s > 0.5 * THREADS * BUSY_S
