"""A model's batch times: measured by one start, and known to the next."""

from __future__ import annotations

import numpy as np
import pytest

from service.tuning.cache import ProfileCache
from service.tuning.profile import BatchTimes, Profile

IMAGE = np.zeros((8, 8, 3), np.uint8)
FACTS = {"model": "m"}


class Engine:
    """Notes the sizes of its batches."""

    provider = "cpu"
    tf32 = False

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.now = 0.0
        self.slow: dict[int, float] = {}  # by how many runs there were before

    def perf_counter(self) -> float:
        return self.now

    def run(self, images):
        self.now += 0.01 * len(images) * self.slow.get(len(self.sizes), 1)
        self.sizes.append(len(images))
        return np.zeros((len(images), 3), np.float32)


@pytest.fixture
def engine(monkeypatch):
    engine = Engine()
    monkeypatch.setattr("service.tuning.profile.time", engine)  # its own clock
    return engine


@pytest.fixture
def cache(tmp_path):
    return ProfileCache(tmp_path / "cache")


def profile(cache: ProfileCache | None, sizes=(1, 4), facts=FACTS) -> Profile:
    return Profile(sizes, cache, lambda: facts)


def all_times(profile: Profile, engine: Engine, sizes=(1, 4)) -> list[list[float]]:
    return [list(profile.times(engine, IMAGE, size)) for size in sizes]


def test_each_size_is_run_once_for_nothing_and_then_timed(engine):
    times = all_times(Profile(), engine)
    assert engine.sizes == [1] * 4 + [4] * 4
    assert [len(each) for each in times] == [3, 3]
    assert all(seconds > 0 for each in times for seconds in each)


def test_a_size_is_timed_once_in_a_process(engine):
    """A model that is loaded again after a loss of its device has newer times than these."""
    mine = Profile()
    all_times(mine, engine)
    ran = len(engine.sizes)
    assert all_times(mine, engine) == [[], []]
    assert len(engine.sizes) == ran


def test_the_next_start_knows_them_and_runs_nothing(engine, cache):
    times = all_times(profile(cache), engine)
    engine.sizes.clear()
    assert all_times(profile(cache), engine) == times
    assert engine.sizes == []


def test_they_are_kept_only_once_all_are_there(engine, cache):
    """A start that was given up has measured some of them."""
    list(profile(cache).times(engine, IMAGE, 1))
    engine.sizes.clear()
    all_times(profile(cache), engine)
    assert engine.sizes == [1] * 4 + [4] * 4


@pytest.mark.parametrize(
    "seconds", [{1: [0.1]}, {1: [0.1], 2: [0.1]}, {1: [0.1], 4: [0.1], 8: [0.1]}]
)
def test_what_is_of_other_sizes_is_measured_anew(engine, cache, seconds):
    cache.write(Profile.KIND, lambda: FACTS, BatchTimes(seconds=seconds))
    times = all_times(profile(cache), engine)
    assert engine.sizes == [1] * 4 + [4] * 4
    kept = cache.read(Profile.KIND, lambda: FACTS, BatchTimes)
    assert kept is not None
    assert list(kept.seconds.values()) == times


def test_without_facts_nothing_is_kept(engine, cache, tmp_path):
    all_times(profile(cache, facts=None), engine)
    assert not (tmp_path / "cache").exists()


def test_a_size_that_fails_can_be_asked_for_again(engine, cache):
    run = engine.run

    def broken(images):
        raise RuntimeError("no memory")

    mine = profile(cache)
    engine.run = broken
    with pytest.raises(RuntimeError):
        mine.times(engine, IMAGE, 1)
    engine.run = run
    assert [len(each) for each in all_times(mine, engine)] == [3, 3]


@pytest.mark.parametrize(
    ("slow", "kept"), [({}, True), ({2: 3.0}, True), ({2: 3.0, 3: 3.0}, False)]
)
def test_times_of_a_disturbed_start_are_not_kept(engine, cache, slow, kept):
    """One slow run of three leaves the median as it is; two do not."""
    engine.slow = slow
    all_times(profile(cache), engine)
    ran = len(engine.sizes)
    all_times(profile(cache), engine)
    assert (len(engine.sizes) == ran) == kept
