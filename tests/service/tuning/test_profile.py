"""A model's batch times: measured by one start as live batches come, and known to the next."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from engines import FakeEngine, answered
from hypothesis import given
from hypothesis import strategies as st

from service.tuning.cache import ProfileCache
from service.tuning.profile import BatchTimes, Profile, smallest_nearly_best

IMAGE = np.zeros((8, 8, 3), np.uint8)
FACTS = {"model": "m"}


class Engine(FakeEngine):
    """Takes 10 ms an image on a clock of its own, and notes the sizes of its batches."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.now = 0.0
        self.slow: dict[int, float] = {}  # by how many runs there were before
        self.for_another_size = 0.0  # seconds more after a batch of another size

    def clock(self) -> float:
        return self.now

    def run(self, pixels, outputs):
        self.now += 0.01 * len(pixels) * self.slow.get(len(self.ran), 1)
        if self.ran and self.ran[-1] != len(pixels):
            self.now += self.for_another_size
        self.ran.append(len(pixels))
        return answered(np.zeros((len(pixels), 3), np.float32))


@pytest.fixture
def engine():
    return Engine()


@pytest.fixture
def cache(tmp_path):
    return ProfileCache(tmp_path / "cache")


def measured(engine: Engine, cache: ProfileCache | None = None, sizes=(1, 4), fingerprint=FACTS):
    profile = Profile(cache, lambda _: fingerprint, engine.clock)
    return profile.measure(engine, IMAGE, sizes, threading.Event())


@pytest.mark.parametrize("sizes", [(1, 2), (1, 4, 8), (1, 2, 4, 8, 16, 32, 64)])
def test_each_size_is_run_at_least_three_times_in_two_orders_and_never_after_itself(engine, sizes):
    measured(engine, sizes=sizes)
    assert all(engine.ran.count(size) == 4 for size in sizes)
    assert all(before != after for before, after in itertools.pairwise(engine.ran))
    rounds = {tuple(engine.ran[i : i + len(sizes)]) for i in range(0, len(engine.ran), len(sizes))}
    assert len(rounds) == (2 if len(sizes) > 2 else 1), "two sizes can only take turns"


def test_an_only_size_follows_itself(engine):
    assert measured(engine, sizes=(1,)) == {1: pytest.approx([0.01] * 3)}


def test_what_a_change_of_size_costs_is_in_the_times(engine):
    """As on a GPU that plans for the last size: to repeat a size would hide it."""
    engine.for_another_size = 0.25
    assert measured(engine) == {1: pytest.approx([0.26] * 3), 4: pytest.approx([0.29] * 3)}


def test_the_first_run_of_a_size_does_not_count(engine):
    """It allocates, and on a GPU chooses kernels."""
    engine.slow = {0: 100, 1: 100}
    assert measured(engine) == {1: pytest.approx([0.01] * 3), 4: pytest.approx([0.04] * 3)}


def test_they_are_measured_once_in_a_process(engine):
    """A model that is loaded again after its session failed has newer times than these."""
    profile = Profile(clock=engine.clock)
    assert profile.measure(engine, IMAGE, (1, 4), threading.Event())
    ran = len(engine.ran)
    assert profile.measure(engine, IMAGE, (1, 4), threading.Event()) == {}
    assert len(engine.ran) == ran


def test_a_stop_ends_it_between_two_batches(engine, cache, tmp_path):
    stop = threading.Event()
    run = engine.run

    def stopping(pixels, outputs):
        if len(engine.ran) == 4:
            stop.set()
        return run(pixels, outputs)

    engine.run = stopping
    assert (
        Profile(cache, lambda _: FACTS, engine.clock).measure(engine, IMAGE, (1, 4), stop) is None
    )
    assert len(engine.ran) == 5
    assert not (tmp_path / "cache").exists()


def test_the_next_start_knows_them_and_runs_nothing(engine, cache):
    times = measured(engine, cache)
    engine.ran.clear()
    assert measured(engine, cache) == times
    assert engine.ran == []


@pytest.mark.parametrize(
    "seconds", [{1: [0.1]}, {1: [0.1], 2: [0.1]}, {1: [0.1], 4: [0.1], 8: [0.1]}]
)
def test_what_is_of_other_sizes_is_measured_anew(engine, cache, seconds):
    cache.write(Profile.KIND, lambda: FACTS, BatchTimes(seconds=seconds))
    times = measured(engine, cache)
    assert sorted(engine.ran) == [1] * 4 + [4] * 4
    kept = cache.read(Profile.KIND, lambda: FACTS, BatchTimes)
    assert kept is not None
    assert kept.seconds == times


def test_without_a_fingerprint_nothing_is_kept(engine, cache, tmp_path):
    measured(engine, cache, fingerprint=None)
    assert not (tmp_path / "cache").exists()


def test_the_fingerprint_is_that_of_the_engine_as_it_was_made_ready(engine, cache):
    """Its graphs, layout and copies are known only then."""
    measured(engine, cache, fingerprint={"cuda_graphs": True})
    ran = len(engine.ran)
    measured(engine, cache, fingerprint={"cuda_graphs": False})
    assert len(engine.ran) == 2 * ran


def test_after_a_failure_they_can_be_asked_for_again(engine, cache):
    run = engine.run

    def broken(pixels, outputs):
        raise RuntimeError("no memory")

    profile = Profile(cache, lambda _: FACTS, engine.clock)
    engine.run = broken
    with pytest.raises(RuntimeError):
        profile.measure(engine, IMAGE, (1, 4), threading.Event())
    engine.run = run
    times = profile.measure(engine, IMAGE, (1, 4), threading.Event())
    assert times is not None
    assert [len(each) for each in times.values()] == [3, 3]


@pytest.mark.parametrize(
    ("slow", "kept"), [({}, True), ({2: 3.0}, True), ({2: 3.0, 4: 3.0}, False)]
)
def test_times_of_a_disturbed_start_are_not_kept(engine, cache, slow, kept):
    """One slow run of three leaves the median as it is; two do not."""
    engine.slow = slow
    measured(engine, cache)
    ran = len(engine.ran)
    measured(engine, cache)
    assert (len(engine.ran) == ran) == kept


@pytest.mark.parametrize(
    ("times", "size"),
    [
        ({1: [1.0]}, 1),
        ({1: [1.0], 2: [2.0], 4: [4.0]}, 1),
        ({1: [1.0], 2: [1.0], 4: [2.1]}, 2),
        ({1: [0.65], 8: [1.31], 32: [3.67], 64: [7.2]}, 32),
        ({1: [0.65], 8: [1.31], 32: [3.67], 64: [6.5]}, 64),
        ({1: [1.0, 9.0, 1.0], 2: [2.0, 2.0, 0.1]}, 1),
    ],
)
def test_the_largest_batch_worth_having_has_nearly_the_best_throughput(times, size):
    assert smallest_nearly_best(times) == size


@given(
    st.dictionaries(
        st.integers(1, 64), st.lists(st.floats(1e-4, 10), min_size=1, max_size=5), min_size=1
    )
)
def test_no_smaller_size_is_as_good_and_no_size_much_better(times):
    def rate(size: int) -> float:
        return size / float(np.median(times[size]))

    chosen = smallest_nearly_best(times)
    best = max(map(rate, times))
    assert rate(chosen) >= 0.95 * best * (1 - 1e-9)
    assert all(rate(size) < 0.95 * best * (1 + 1e-9) for size in times if size < chosen)
