"""The latency table: what it says of batch sizes, and what it plans."""

from __future__ import annotations

import itertools
import math

import pytest
from clock import Clock, simulated_time
from hypothesis import given
from hypothesis import strategies as st

from service.batching.latency import LatencyTable

measurements = st.lists(st.tuples(st.integers(1, 64), st.floats(1e-4, 2)), min_size=1, max_size=60)


def table(**seconds: float) -> LatencyTable:
    return LatencyTable((int(name[1:]), value) for name, value in seconds.items())


def test_without_measurements_nothing_takes_time_and_all_that_waits_is_taken():
    empty = LatencyTable()
    assert empty.median_s(8) == empty.p95_s(8) == 0
    assert empty.best_size(8, 0.0) == 8


def test_median_and_95th_percentile_are_of_the_recent_batches():
    """Old ones are forgotten, so that the table follows a machine that has changed."""
    slow_then_fast = LatencyTable([(1, 9.0)] * 100 + [(1, 1.0)] * 28 + [(1, 2.0)] * 4)
    assert slow_then_fast.median_s(1) == 1.0
    assert slow_then_fast.p95_s(1) == 2.0


@given(measurements, st.integers(1, 200), st.integers(1, 64))
def test_a_plan_takes_the_batches_that_are_really_taken(measured, images, max_batch):
    latencies = LatencyTable(measured)
    total = last = 0.0
    left = images
    while left:
        size = latencies.best_size(min(left, max_batch), math.inf)
        last = latencies.median_s(size)
        total, left = total + last, left - size
    planned_total, planned_last = latencies.plan(images, max_batch)
    assert math.isclose(planned_total, total, rel_tol=1e-9)
    assert math.isclose(planned_last, last)


def test_sizes_between_measured_ones_are_interpolated():
    assert math.isclose(table(n2=0.2, n4=0.3).median_s(3), 0.25)
    assert table(n2=0.2).median_s(1) == 0.2
    assert math.isclose(table(n2=0.2).median_s(6), 0.6)


@given(measurements)
def test_times_grow_with_the_size_and_with_the_percentile(measured):
    latencies = LatencyTable(measured)
    medians = [latencies.median_s(size) for size in range(1, 80)]
    highs = [latencies.p95_s(size) for size in range(1, 80)]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(medians))
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(highs))
    assert all(median <= high for median, high in zip(medians, highs, strict=True))


def test_where_a_batch_is_no_faster_than_single_images_latency_wins():
    """As on a CPU that one image keeps busy: 8 images take 8 times as long."""
    assert table(n1=0.05, n2=0.1, n4=0.2, n8=0.4).best_size(8, math.inf) == 1


def test_where_batches_are_faster_the_fastest_is_taken():
    """As on a GPU: 8 images take hardly longer than one."""
    gpu = table(n1=0.010, n2=0.011, n4=0.012, n8=0.014)
    assert gpu.best_size(8, math.inf) == 8
    assert gpu.best_size(3, math.inf) == 3


def test_a_batch_must_end_before_the_earliest_deadline():
    gpu = table(n1=0.010, n2=0.011, n4=0.012, n8=0.014)
    assert gpu.best_size(8, 0.0120) == 4
    assert gpu.best_size(8, 0.001) == 1, "nothing fits: the earliest may still make it"


@given(measurements, st.integers(1, 64), st.floats(0, 3))
def test_a_plan_fits_and_no_fitting_size_is_much_faster(measured, waiting, left):
    latencies = LatencyTable(measured)
    size = latencies.best_size(waiting, left)
    assert 1 <= size <= waiting
    fitting = [n for n in range(1, waiting + 1) if latencies.p95_s(n) <= left]
    if fitting:
        assert size in fitting
        best = max(n / latencies.median_s(n) for n in fitting)
        assert size / latencies.median_s(size) >= 0.95 * best - 1e-9
    else:
        assert size == 1


def test_timings_that_are_not_current_give_way_to_newer_ones():
    """A size that is seldom run was slow once; the median would need sixteen new ones."""
    latencies = LatencyTable([(8, 0.05)] * 3)
    for _ in range(32):
        latencies.observe(8, 0.30)
    for _ in range(1000):
        latencies.observe(1, 0.01)
    assert latencies.median_s(8) == 0.30, "nothing newer is known"
    latencies.observe(8, 0.06)
    assert latencies.median_s(8) == 0.06


def test_what_live_batches_took_can_be_forgotten_and_is_stale_after_a_while():
    clock = Clock()
    latencies = table(n1=0.010, n8=0.050)
    with simulated_time(clock):
        for _ in range(100):
            latencies.observe(1, 1.0)
            latencies.observe(3, 1.0)
        assert not latencies.is_stale
        clock.now += 11
        assert latencies.is_stale
        latencies.forget()
        assert not latencies.is_stale
        assert latencies.rows() == table(n1=0.010, n8=0.050).rows()


def test_what_was_measured_is_doubted_until_a_live_batch_tells():
    clock = Clock()
    with simulated_time(clock):
        latencies = table(n1=0.010, n8=0.050)
        clock.now += 11
        assert latencies.is_stale
        latencies.doubt()
        assert latencies.rows() == table(n1=0.005, n8=0.025).rows()
        latencies.doubt()
        assert latencies.median_s(8) == 0.0125
        latencies.observe(1, 0.010)
        assert latencies.rows() == table(n1=0.010, n8=0.050).rows(), "it was right all along"
        clock.now += 11
        latencies.doubt()
        assert latencies.rows() == table(n1=0.010, n8=0.050).rows()


def test_a_live_batch_tells_by_how_much_all_that_was_measured_is_too_slow():
    latencies = table(n1=0.010, n8=0.050)
    for _ in range(100):
        latencies.doubt()
    assert latencies.median_s(1) == 0.010 / 64, "something is always taken to be needed"
    latencies.observe(8, 0.010)
    assert latencies.median_s(8) == pytest.approx(0.010)
    assert latencies.median_s(1) == pytest.approx(0.002)
    latencies.forget()
    assert latencies.median_s(1) == 0.010


def test_now_and_then_a_neighbour_of_the_best_size_is_tried():
    """A wrong start, as on a machine that was busy then, is found out."""
    latencies = table(n1=0.010, n2=0.030, n4=0.040, n8=0.080)
    took = {1: 0.010, 2: 0.014, 4: 0.020, 8: 0.030}
    sizes = []
    for _ in range(1000):
        best = latencies.best_size(8, math.inf)
        trial = latencies.trial_size(best, 8, math.inf)
        latencies.note_choice(is_trial=trial is not None)
        size = trial or best
        sizes.append(size)
        latencies.observe(size, took[size])
    assert sizes[0] == 1
    assert sizes.count(8) > 500
    assert latencies.best_size(8, math.inf) == 8
    assert sum(size != 8 for size in sizes[-160:]) == 10, "and the best is left one time in 16"


@given(measurements, st.lists(st.tuples(st.integers(1, 64), st.floats(0, 3)), min_size=40))
def test_only_a_size_that_fits_with_time_to_spare_is_tried(measured, batches):
    latencies = LatencyTable(measured)
    for waiting, left in batches:
        latencies.observe(waiting, left)
        best = latencies.best_size(waiting, left)
        trial = latencies.trial_size(best, waiting, left)
        latencies.note_choice(is_trial=trial is not None)
        size = best if trial is None else trial
        assert trial != best
        assert 1 <= size <= waiting
        assert size == best or (4 * latencies.p95_s(size) <= left and best <= 2 * size <= 4 * best)


@given(measurements, st.integers(0, 300), st.integers(1, 64))
def test_more_images_are_never_predicted_to_take_less_than_their_best_rate(measured, images, batch):
    latencies = LatencyTable(measured)
    seconds, last = latencies.plan(images, batch)
    assert seconds >= last >= 0
    if images:
        rate = max(n / latencies.median_s(n) for n in range(1, batch + 1))
        assert seconds >= images / rate - 1e-6
