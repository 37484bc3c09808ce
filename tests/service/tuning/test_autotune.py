"""Which parallelism a service gets, and why: settings, an earlier start, or measurement."""

from __future__ import annotations

import json
from typing import Any

import pytest
from color_model import write_color_model
from engines import FakeEngine, FakeOpener
from structlog.testing import capture_logs

from service.engine.onnx import load_engine
from service.engine.providers import CUDA
from service.errors import ContractError, ModelFileError
from service.settings import Settings
from service.tuning import autotune as autotune_module
from service.tuning.autotune import ParallelismChoice, autotune
from service.tuning.cache import ProfileCache
from service.tuning.measure import ReopenableEngine
from service.tuning.parallelism import Parallelism, Trial

TWO_ONES, ONE_TWO = Parallelism(2, 1), Parallelism(1, 2)
TRIALS = [Trial(TWO_ONES, 200.0, 0.010), Trial(ONE_TWO, 150.0, 0.006)]


@pytest.fixture(autouse=True)
def two_cpus(monkeypatch):
    monkeypatch.setattr(autotune_module, "cpu_count", lambda: 2)


@pytest.fixture
def model(tmp_path):
    return write_color_model(tmp_path / "models" / "color.onnx")


@pytest.fixture
def cache(tmp_path):
    return ProfileCache(tmp_path / "cache")


@pytest.fixture
def trials(monkeypatch):
    """Trials of known outcome; gives the list of what was tried."""
    asked: list[list[Parallelism]] = []

    def tried(options, engines, image, *, max_batch):
        asked.append(list(options))
        assert image.shape == (8, 8, 3)
        return TRIALS

    monkeypatch.setattr(autotune_module, "measure", tried)
    return asked


def chosen(
    path, cache: ProfileCache | None = None, models: int = 1, opener=None, **settings
) -> ParallelismChoice:
    opener = opener or FakeOpener(load_engine)
    return autotune(
        path,
        opener,
        ReopenableEngine(opener, path),
        Settings.model_validate({"provider": "cpu"} | settings),
        models=models,
        cache=cache or ProfileCache(None),
    )


def test_it_is_measured_with_the_real_runtime_where_nothing_is_given(model):
    choice = chosen(model)
    assert choice.source == "measured"
    assert [trial.parallelism for trial in choice.trials] == [TWO_ONES, ONE_TWO]
    assert choice.parallelism in (TWO_ONES, ONE_TWO)
    assert choice.why.startswith("measured now: 2 runners x 1 thread ")
    for trial in choice.trials:
        assert f"{trial.parallelism} {trial.images_per_s:.0f} images/s" in choice.why


FIGURES = (
    "2 runners x 1 thread 200 images/s and a lone image in 10 ms, "
    "1 runner x 2 threads 150 images/s and a lone image in 6 ms"
)


@pytest.mark.parametrize(
    ("goal", "because"),
    [
        ("throughput", "2 runners x 1 thread has the highest throughput"),
        ("latency", "1 runner x 2 threads answers a lone image fastest"),
    ],
)
def test_a_choice_says_why_with_the_figures_of_each_that_was_tried(
    model, cache, trials, goal, because
):
    assert chosen(model, cache, optimize_for=goal).why == f"measured now: {FIGURES}; {because}"
    again = chosen(model, cache, optimize_for=goal)
    assert again.why == f"measured by an earlier start: {FIGURES}; {because}"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"runners": 3, "intra_op_threads": 5}, "set by --runners and --intra-op-threads"),
        ({"runners": 1}, "set by --runners; the other follows from the number of cores"),
        (
            {"intra_op_threads": 1},
            "set by --intra-op-threads; the other follows from the number of cores",
        ),
    ],
)
def test_a_choice_that_was_given_says_by_what(model, given, why):
    assert chosen(model, **given).why == why


@pytest.mark.parametrize(("goal", "parallelism"), [("throughput", TWO_ONES), ("latency", ONE_TWO)])
def test_the_goal_decides(model, trials, goal, parallelism):
    choice = chosen(model, optimize_for=goal)
    assert (choice.parallelism, choice.goal, choice.source) == (parallelism, goal, "measured")
    assert choice.trials == TRIALS


@pytest.mark.parametrize(
    ("given", "parallelism"),
    [
        ({"runners": 3, "intra_op_threads": 5}, Parallelism(3, 5)),
        ({"runners": 1}, ONE_TWO),
        ({"intra_op_threads": 1}, TWO_ONES),
    ],
)
def test_what_is_given_is_taken_without_a_trial(model, cache, trials, given, parallelism):
    choice = chosen(model, cache, **given)
    assert (choice.parallelism, choice.source, list(choice.trials)) == (parallelism, "settings", [])
    assert trials == []


def test_one_cpu_leaves_nothing_to_choose(model, trials, monkeypatch):
    monkeypatch.setattr(autotune_module, "cpu_count", lambda: 1)
    choice = chosen(model)
    assert (choice.parallelism, choice.source) == (Parallelism(1, 1), "default")
    assert choice.why == "one core leaves nothing to choose"
    assert trials == []


def test_the_next_start_knows_for_either_goal(model, cache, trials):
    chosen(model, cache)
    for goal, parallelism in (("throughput", TWO_ONES), ("latency", ONE_TWO)):
        choice = chosen(model, cache, optimize_for=goal)
        assert (choice.parallelism, choice.source) == (parallelism, "cache")
        assert choice.trials == TRIALS
    assert len(trials) == 1


def test_another_model_batch_size_or_number_of_cpus_is_tried_anew(
    model, cache, trials, tmp_path, monkeypatch
):
    chosen(model, cache)
    chosen(write_color_model(tmp_path / "other.onnx", name="other"), cache)
    chosen(model, cache, max_batch=2)
    monkeypatch.setattr(autotune_module, "cpu_count", lambda: 4)
    chosen(model, cache)
    chosen(model, cache, models=2)
    middle = [Parallelism(4, 1), Parallelism(1, 4)]
    assert trials == [[TWO_ONES, ONE_TWO]] * 3 + [
        [*middle, Parallelism(2, 3)], [*middle, Parallelism(2, 2)]
    ]  # fmt: skip


def test_figures_of_other_candidates_are_not_used(model, cache, trials, tmp_path):
    chosen(model, cache)
    (path,) = (tmp_path / "cache").iterdir()
    entry = json.loads(path.read_text())
    entry["value"]["trials"].pop()
    path.write_text(json.dumps(entry))
    assert chosen(model, cache).source == "measured"
    assert chosen(model, cache).source == "cache"


def test_figures_of_a_busy_machine_are_used_and_not_kept(model, cache, monkeypatch):
    busy = [TRIALS[0], Trial(ONE_TWO, 300.0, 0.006, steady=False)]
    monkeypatch.setattr(autotune_module, "measure", lambda *_, **__: busy)
    with capture_logs() as logs:
        choice = chosen(model, cache)
    assert (choice.parallelism, choice.source) == (TWO_ONES, "measured")
    assert choice.why.endswith("is the default unless another is clearly and steadily faster")
    assert [candidate["steady"] for candidate in choice.described()["candidates"]] == [True, False]
    assert "parallelism_not_cached" in [entry["event"] for entry in logs]
    assert chosen(model, cache).source == "measured"


def test_a_model_that_can_not_run_gets_a_runner_for_each_cpu(model, cache, tmp_path):
    """What is wrong with it is told by its warm-up, and the others are served."""

    def broken(path, **options):
        engine = load_engine(path, **options)

        def run(pixels, outputs):
            raise RuntimeError("out of memory")

        engine.run = run
        return engine

    with capture_logs() as logs:
        choice = chosen(model, cache, opener=FakeOpener(broken))
    assert (choice.parallelism, choice.source, list(choice.trials)) == (TWO_ONES, "default", [])
    assert choice.why == "not measured: out of memory"
    assert ("parallelism_not_measured", "out of memory") in [
        (entry["event"], entry.get("detail")) for entry in logs
    ]
    assert not (tmp_path / "cache").exists()


def test_a_file_that_is_refused_is_refused_as_ever(tmp_path, model):
    with pytest.raises(ModelFileError, match=r"none\.onnx: no such file"):
        chosen(tmp_path / "none.onnx")
    model.write_bytes(model.read_bytes().replace(b"resnet_serve.contract", b"x" * 21))
    with pytest.raises(ContractError):
        chosen(model)


class OnGpu(FakeEngine):
    """Stands for an engine on a GPU, which is not to be had here."""

    provider = CUDA

    def close(self) -> None:
        raise AssertionError("opened once, and kept")


@pytest.mark.parametrize(
    ("given", "parallelism", "source"),
    [
        ({}, Parallelism(2, 1), "default"),
        ({"runners": 1}, Parallelism(1, 1), "settings"),
        ({"intra_op_threads": 2}, Parallelism(2, 2), "settings"),
    ],
)
def test_a_gpu_has_two_batches_under_way_unless_told_otherwise(
    model, trials, given, parallelism, source
):
    """One is computed while the other is stacked and copied."""
    engine: Any = OnGpu()
    opener = FakeOpener(lambda *_, **__: engine, "auto", on_gpu=True)
    choice = chosen(model, opener=opener, provider="auto", **given)
    assert (choice.parallelism, choice.source) == (parallelism, source)
    assert trials == []


def test_a_gpu_that_does_not_work_leaves_the_cpu_to_be_tried(model, trials):
    opener = FakeOpener(load_engine, "auto", on_gpu=True)
    assert chosen(model, opener=opener, provider="auto").source == "measured"
    assert trials == [[TWO_ONES, ONE_TWO]]
