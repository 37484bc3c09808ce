"""Candidates are measured with the real ONNX Runtime; what comes out has the right form."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from color_model import write_color_model
from engines import FakeEngine, FakeOpener, answered

from service.engine.base import probabilities
from service.engine.onnx import load_engine
from service.engine.providers import CPU
from service.golden import golden_pattern
from service.tuning import measure as measure_module
from service.tuning.measure import ReopenableEngine, measure
from service.tuning.parallelism import Parallelism

IMAGE = golden_pattern(1, 8)
OPTIONS = [Parallelism(2, 1), Parallelism(1, 2), Parallelism(2, 3)]


class Watched:
    """Opens engines, and counts what becomes of them."""

    def __init__(self) -> None:
        self.opened: list[tuple[str, int]] = []
        self.open_now = self.most_open = 0

    def __call__(self, path, *, provider, intra_op_threads):
        engine = load_engine(path, provider=provider, intra_op_threads=intra_op_threads)
        self.opened.append((provider, intra_op_threads))
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        close = engine.close

        def closed() -> None:
            self.open_now -= 1
            close()

        engine.close = closed
        return engine


@pytest.fixture
def model(tmp_path):
    return write_color_model(tmp_path / "color.onnx")


@pytest.fixture
def watched():
    return Watched()


def test_each_layout_has_its_figures(watched, model):
    trials = measure(OPTIONS, ReopenableEngine(FakeOpener(watched), model), IMAGE, max_batch=8)
    assert [trial.parallelism for trial in trials] == OPTIONS
    assert all(trial.images_per_s > 0 and trial.lone_s > 0 for trial in trials)


def test_they_are_tried_there_and_back_and_one_session_is_open_at_a_time(watched, model):
    measure(OPTIONS, ReopenableEngine(FakeOpener(watched), model), IMAGE, max_batch=8)
    assert [threads for _, threads in watched.opened] == [1, 2, 3, 2, 1]
    assert watched.most_open == 1


def test_a_model_that_takes_long_is_tried_once(watched, model, monkeypatch):
    monkeypatch.setattr(measure_module, "_NO_WAY_BACK_S", -1.0)
    trials = measure(OPTIONS, ReopenableEngine(FakeOpener(watched), model), IMAGE, max_batch=8)
    assert [threads for _, threads in watched.opened] == [1, 2, 3]
    assert len(trials) == 3
    assert not any(trial.steady for trial in trials), "nothing confirms a single result"


class Counting(FakeEngine):
    """An engine that notes sizes and callers."""

    def __init__(self) -> None:
        self.ran: set[int] = set()
        self.inside = self.most_inside = 0
        self.lock = threading.Lock()
        self.callers: set[int] = set()

    def run(self, pixels, outputs):
        with self.lock:
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            self.ran.add(len(pixels))
            self.callers.add(threading.get_ident())
        answers = answered(np.zeros((len(pixels), 3), np.float32))
        with self.lock:
            self.inside -= 1
        return answers


def tried(engine: Counting, *options: Parallelism, max_batch: int = 8):
    engines = ReopenableEngine(FakeOpener(lambda *_, **__: engine), Path("a.onnx"))
    return measure(options, engines, IMAGE, max_batch=max_batch)


@pytest.mark.parametrize(("max_batch", "sizes"), [(1, {1}), (2, {1, 2}), (4, {1, 4}), (8, {1, 4})])
def test_single_images_and_a_small_batch_are_tried(max_batch, sizes):
    engine = Counting()
    tried(engine, Parallelism(2, 1), max_batch=max_batch)
    assert engine.ran == sizes


def test_a_slow_model_is_tried_with_single_images_only(monkeypatch):
    monkeypatch.setattr(measure_module, "_LONGEST_BATCH_S", 0.0)
    engine = Counting()
    tried(engine, Parallelism(2, 1))
    assert engine.ran == {1}


def test_never_more_callers_than_runners():
    engine = Counting()
    tried(engine, Parallelism(3, 1))
    assert 1 <= engine.most_inside <= 3
    assert threading.get_ident() in engine.callers, "a lone image's"
    assert len(engine.callers) >= 4, "callers have threads of their own"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_whichever_caller_fails_the_others_end_and_its_error_is_raised(which):
    engine = Counting()
    callers: dict[int, int] = {}

    def run(pixels, outputs):
        if threading.current_thread() is not threading.main_thread():
            with engine.lock:
                number = callers.setdefault(threading.get_ident(), len(callers))
            if number == which:
                raise RuntimeError("no memory")
        return answered(np.zeros((len(pixels), 3), np.float32))

    engine.run = run
    with pytest.raises(RuntimeError, match="no memory"):
        tried(engine, Parallelism(3, 1))


def test_a_thread_that_can_not_be_started_leaves_no_other_waiting(monkeypatch):
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def limited(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        tried(Counting(), Parallelism(2, 1))


def test_results_that_differ_much_are_not_steady(monkeypatch):
    """The first of the two has the machine to itself, and the second a third of it."""
    rates = iter([90.0, 80.0, 30.0])  # batch of 1, batch of 4, and the better one again
    monkeypatch.setattr(measure_module, "_rate", lambda *_: next(rates))
    (trial,) = tried(Counting(), Parallelism(1, 1))
    assert (trial.images_per_s, trial.steady) == (90.0, False)


def test_results_that_agree_are_steady_and_the_better_counts(monkeypatch):
    rates = iter([90.0, 80.0, 95.0])
    monkeypatch.setattr(measure_module, "_rate", lambda *_: next(rates))
    (trial,) = tried(Counting(), Parallelism(1, 1))
    assert (trial.images_per_s, trial.steady) == (95.0, True)


def test_an_engine_is_kept_for_the_same_number_of_threads_and_opened_anew_for_another(
    watched, model
):
    engines = ReopenableEngine(FakeOpener(watched), model)
    one = engines.with_threads(1)
    assert engines.with_threads(1) is one
    two = engines.with_threads(2)
    assert two is not one
    assert watched.open_now == 1
    assert probabilities(two, [IMAGE]).shape == (1, 3)


def test_where_auto_came_to_the_cpu_the_gpu_is_not_tried_again(watched, model):
    engines = ReopenableEngine(FakeOpener(watched, "auto"), model)
    engines.with_threads(1)
    engines.with_threads(2)
    assert watched.opened == [("auto", 1), ("cpu", 2)]


def test_what_opens_an_engine_may_fail_and_succeed_later(model):
    broken = True

    def open_engine(path, **options):
        if broken:
            raise RuntimeError("no memory")
        return load_engine(path, **options)

    engines = ReopenableEngine(FakeOpener(open_engine), model)
    with pytest.raises(RuntimeError, match="no memory"):
        engines.with_threads(1)
    broken = False
    assert engines.with_threads(1).provider is CPU
