"""The served models: found in a folder, loaded, warmed, and looked up by name and version."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from pathlib import Path

import numpy as np
import onnx
import pytest
from color_model import write_color_model, write_schema_1
from engines import FakeOpener
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from waiting import wait_until

from service.contract import GoldenPattern, Label
from service.engine.onnx import OnnxOpener, load_engine
from service.errors import (
    BrokenModelError,
    ModelFileError,
    ModelRequiredError,
    ModelSelectionError,
    NotReadyError,
    StartupError,
    UnknownModelError,
)
from service.golden import tolerance_in_force
from service.metrics import Metrics
from service.models.loader import load_repository
from service.models.model import ServedModel
from service.models.proving import buckets
from service.models.repository import Repository
from service.models.state import State
from service.settings import Settings
from service.tuning.autotune import autotune
from service.tuning.parallelism import Parallelism


def loaded(folder: Path, metrics: Metrics | None = None, **options) -> Repository:
    fields = {"models": folder, "provider": "cpu", "intra_op_threads": 1}
    return load_repository(Settings.model_validate(fields | options), metrics or Metrics())


def refusal(error: type[StartupError], folder: Path, **options) -> str:
    with pytest.raises(error) as caught:
        loaded(folder, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Loading


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:200])
    return path


def without_contract(path: Path) -> Path:
    path.write_bytes(path.read_bytes().replace(b"resnet_serve.contract", b"resnet_serve.contrast"))
    return path


def of_two_labels(path: Path) -> Path:
    labels = tuple(Label(id=str(i), label=str(i)) for i in range(2))
    golden = (GoldenPattern(seed=1, probabilities=(0.5, 0.5)),)
    return write_color_model(path, labels=labels, golden=golden)


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "ONNX Runtime can't load it"),
        (empty, "ONNX Runtime can't load it"),
        (without_contract, "has no contract"),
        (of_two_labels, "3 probabilities, but its contract has 2 labels"),
    ],
)
@pytest.mark.parametrize("name", ["a", "z"])
def test_a_broken_file_does_not_keep_the_others_from_being_served(tmp_path, name, damage, said):
    """Also when it comes first, and the parallelism would be measured by it."""
    for good in ("b", "c"):
        write_color_model(tmp_path / f"{good}.onnx")
    path = damage(write_color_model(tmp_path / f"{name}.onnx"))
    metrics = Metrics()
    with capture_logs() as logs:
        repository = loaded(tmp_path, metrics, intra_op_threads=0)
    assert [model.name for model in repository] == ["b", "c"]
    (broken,) = repository.models.broken()
    assert (broken.name, broken.version) == (name, 1)
    assert said in broken.reason
    assert str(tmp_path) not in broken.reason, "clients need not know where files lie"
    with pytest.raises(BrokenModelError, match=f"model {name} version 1 is broken: "):
        repository.find(name)
    assert repository.find("c").name == "c"
    (told,) = [entry for entry in logs if entry["event"] == "model_broken"]
    assert (told["log_level"], told["path"]) == ("error", str(path))
    assert said in told["detail"]
    text = metrics.render().decode()
    assert f'resnet_serve_model_broken{{model="{name}",version="1"}} 1.0' in text
    assert f'resnet_serve_model_ready{{model="{name}",version="1"}} 0.0' in text
    assert 'resnet_serve_model_broken{model="b",version="1"} 0.0' in text


def test_one_model_that_is_left_of_several_does_not_become_the_default(tmp_path):
    """Else requests that named none would be answered, or not, as files break."""
    write_color_model(tmp_path / "good.onnx")
    cut(write_color_model(tmp_path / "other.onnx"))
    repository = loaded(tmp_path)
    with pytest.raises(ModelRequiredError, match="good"):
        repository.find(None)


def test_when_no_file_can_be_loaded_the_start_stops_with_the_first(tmp_path):
    paths = [cut(write_color_model(tmp_path / f"{name}.onnx")) for name in ("a", "b")]
    with capture_logs() as logs:
        assert str(paths[0]) in refusal(ModelFileError, tmp_path)
    assert [entry["path"] for entry in logs] == [str(path) for path in paths]


def test_a_file_that_was_refused_is_not_kept_open(tmp_path, monkeypatch):
    """Its session would be as large as the model, beside all that are served."""
    opened, open_file = [], OnnxOpener.open

    def noted(opener, path, *args, **options):
        engine = open_file(opener, path, *args, **options)
        opened.append((path.name, weakref.ref(engine)))
        return engine

    monkeypatch.setattr(OnnxOpener, "open", noted)
    of_two_labels(write_color_model(tmp_path / "a.onnx"))
    write_color_model(tmp_path / "b.onnx")
    gc.collect()
    gc.disable()
    try:
        repository = loaded(tmp_path, intra_op_threads=0)
        alive = {name for name, engine in opened if engine() is not None}
    finally:
        gc.enable()
    assert [model.name for model in repository] == ["b"]
    assert alive == {"b.onnx"}


def test_a_broken_default_model_stops_the_start_with_its_name(several):
    path = cut(several / "b" / "12.onnx")
    assert str(path) in refusal(ModelFileError, several, default_model="b")
    assert loaded(several, default_model="a").models.broken() != []


def test_the_highest_version_of_an_only_model_is_the_default_and_stops_the_start(tmp_path):
    for version in (1, 2):
        write_color_model(tmp_path / "color" / f"{version}.onnx")
    path = cut(tmp_path / "color" / "2.onnx")
    assert str(path) in refusal(ModelFileError, tmp_path)


def test_no_other_version_answers_in_the_place_of_a_broken_one(several):
    """Who asks for no version expects the newest, and must not get an old one's answers."""
    cut(several / "b" / "12.onnx")
    repository = loaded(several)
    with pytest.raises(BrokenModelError, match="version 12"):
        repository.find("b")
    assert key(repository.find("b", 3)) == ("b", 3)


@pytest.mark.parametrize("damage", [cut, without_contract, of_two_labels])
def test_a_strict_start_is_stopped_by_any_broken_file(several, damage):
    path = damage(several / "b" / "1.onnx")
    assert str(path) in refusal(ModelFileError, several, strict_models=True, default_model="a")


def test_what_can_not_be_a_model_is_told_and_stops_a_strict_start(several):
    link = several / "gone.onnx"
    link.symlink_to("nowhere")
    with capture_logs() as logs:
        assert len(list(loaded(several))) == 4
    (told,) = [entry for entry in logs if entry["event"] == "model_file_passed_over"]
    assert (told["path"], told["detail"]) == (str(link), "is a broken symbolic link")
    message = refusal(ModelSelectionError, several, strict_models=True)
    assert message == f"{link}: is a broken symbolic link (--strict-models)"


def test_a_file_alone_is_served(model_folder):
    write_color_model(model_folder / "other.onnx")
    repository = loaded(model_folder / "color.onnx")
    assert [key(model) for model in repository] == [("color", 1)]
    assert repository.models.default == "color"


def with_input(path: Path, *sizes: int | None) -> Path:
    """A color model whose file fixes N, H or W of its input."""
    model = onnx.load(path)
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, sizes, strict=False):
        if size is not None:
            dim.dim_value = size
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ((None, 16, 16), "takes images of 16 x 16 pixels"),
        ((None, 8, 16), "takes images of 16 x 8 pixels"),
        ((None, 9, None), "takes images of any x 9 pixels"),
    ],
)
def test_a_graph_of_another_size_than_its_contract_crops_to_is_refused(tmp_path, sizes, said):
    """At load, and not as an error of every request."""
    path = with_input(write_color_model(tmp_path / "color.onnx"), *sizes)
    message = refusal(ModelFileError, tmp_path)
    assert message.startswith(f"{path}: {said}")
    assert message.endswith("its contract crops to 8 x 8")


def test_a_graph_that_states_the_size_of_its_contract_is_served(tmp_path):
    with_input(write_color_model(tmp_path / "color.onnx"), None, 8, 8)
    assert len(list(loaded(tmp_path))) == 1


def test_a_graph_of_a_fixed_batch_is_refused_with_the_way_to_serve_it(tmp_path):
    with_input(write_color_model(tmp_path / "color.onnx"), 1)
    assert "batches of exactly 1" in refusal(ModelFileError, tmp_path)
    assert "`--max-batch 1` serves it" in refusal(ModelFileError, tmp_path)
    (model,) = loaded(tmp_path, max_batch=1)
    model.warm_up(threading.Event())
    assert model.state == "ready"
    with_input(write_color_model(tmp_path / "color.onnx"), 4)
    message = refusal(ModelFileError, tmp_path, max_batch=1)
    assert "batches of exactly 4" in message
    assert "--max-batch" not in message


def test_a_contract_of_another_number_of_classes_than_the_graph_is_refused(tmp_path):
    labels = tuple(Label(id=str(i), label=str(i)) for i in range(2))
    golden = (GoldenPattern(seed=1, probabilities=(0.5, 0.5)),)
    path = write_color_model(tmp_path / "color.onnx", labels=labels, golden=golden)
    message = refusal(ModelFileError, tmp_path)
    assert message.startswith(str(path))
    assert "3 probabilities, but its contract has 2 labels" in message


def test_one_name_and_version_twice_is_refused_with_both_files(tmp_path):
    first = write_color_model(tmp_path / "color.onnx")
    second = write_color_model(tmp_path / "color" / "1.onnx")
    message = refusal(ModelSelectionError, tmp_path)
    assert str(first) in message
    assert str(second) in message


def test_a_folder_that_has_the_built_in_models_name_does_not_hide_it(tmp_path):
    write_color_model(tmp_path / "slim-resnet50.onnx")
    assert "slim-resnet50 version 1" in refusal(ModelSelectionError, tmp_path, builtin=True)


def test_a_default_model_that_is_not_there_is_told_which_are(model_folder):
    message = refusal(ModelSelectionError, model_folder, default_model="colour")
    assert "--default-model" in message
    assert "'colour'" in message
    assert "available: color" in message


def test_what_is_loaded_is_shown_in_the_metrics(model_folder):
    metrics = Metrics()
    loaded(model_folder, metrics)
    text = metrics.render().decode()
    assert 'resnet_serve_model_ready{model="color",version="1"} 0.0' in text
    for label in ('architecture="mean-color"', 'precision="fp32"', 'provider="cpu"'):
        assert label in text


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_file_of_the_first_releases_is_served_as_before(tmp_path, precision):
    """Its contract is of schema 1."""
    limits = {"cpu": {precision: 1e-5}, "cuda": {precision: 0.1}}
    path = write_schema_1(tmp_path / "old.onnx", precision=precision, tolerances=limits)
    (model,) = repository = loaded(path)
    repository.warm_up(threading.Event())
    assert (model.state, model.contract.schema_version) == ("ready", 2)
    assert tolerance_in_force(model.engine, model.contract) == 1e-5
    repository.close(10)


# The parallelism


@pytest.fixture
def several(tmp_path):
    for name in ("a.onnx", "b/1.onnx", "b/3.onnx", "b/12.onnx"):
        write_color_model(tmp_path / "several" / name)
    return tmp_path / "several"


def test_the_chosen_layout_is_logged_once_with_why(several):
    cut(several / "a.onnx")
    with capture_logs() as logs:
        repository = loaded(several)
    (told,) = [entry for entry in logs if entry["event"] == "parallelism_chosen"]
    assert told["why"] == "set by --intra-op-threads; the other follows from the number of cores"
    assert told["runners"] == repository.parallelism.parallelism.runners


def test_the_layout_is_that_of_the_pool_and_of_every_session(several):
    opened = []

    def open_engine(path, **options):
        opened.append(options["intra_op_threads"])
        return load_engine(path, **options)

    settings = Settings.model_validate({"models": several, "runners": 2, "intra_op_threads": 3})
    repository = load_repository(settings, Metrics(), opener=FakeOpener(open_engine))
    assert repository.parallelism.parallelism == Parallelism(2, 3)
    assert opened == [3, 3, 3, 3]

    async def concurrencies() -> set[int]:
        repository.start()
        for model in repository:
            model.warm_up(threading.Event())
        try:
            return {model.batcher()._source.concurrency.limit for model in repository}
        finally:
            repository.close(timeout_s=20)

    assert asyncio.run(concurrencies()) == {2}


@pytest.mark.parametrize(
    ("default", "measured"), [(None, "a.onnx"), ("a", "a.onnx"), ("b", "b/12.onnx")]
)
def test_the_parallelism_is_measured_on_the_model_that_is_asked_for_by_default(
    several, monkeypatch, default, measured
):
    """And only on that, in the version that answers."""
    asked = []

    def chosen(path, opener, engines, settings, *, models, **more):
        if not settings.runners:  # the others run as that one does
            asked.append((path, models))
        return autotune(path, opener, engines, settings, models=models, **more)

    monkeypatch.setattr("service.tuning.contest.autotune", chosen)
    loaded(several, default_model=default)
    assert asked == [(several / measured, 4)]


def sizes_run(model: ServedModel) -> list[int]:
    """Warm a model up; gives the sizes of the batches that it ran for that."""
    sizes, run = [], model.engine.run

    def counted(pixels, outputs):
        sizes.append(len(pixels))
        return run(pixels, outputs)

    model.engine.run = counted
    model.warm_up(threading.Event())
    assert model.state == "ready"
    return sizes


def test_a_start_knows_the_times_of_an_earlier_one_and_checks_the_golden_cases_all_the_same(
    model_folder, tmp_path
):
    (first,) = loaded(model_folder, cache_dir=tmp_path / "cache")
    measured = sizes_run(first)
    (second,) = loaded(model_folder, cache_dir=tmp_path / "cache")
    checked = sizes_run(second)
    assert second.latency_ms() == first.latency_ms()
    assert set(checked) == set(measured) == {1, 2, 4, 8}
    assert len(checked) == len(measured) - 4 * 4, "of each size, one run and three that are timed"
    (other,) = loaded(model_folder, cache_dir=tmp_path / "cache", intra_op_threads=2)
    assert sizes_run(other) == measured, "other threads, other times"


def test_a_cache_that_can_not_be_used_is_told_once_and_all_is_measured(model_folder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with capture_logs() as logs:
        (model,) = loaded(model_folder, cache_dir=tmp_path / "file", intra_op_threads=0)
        model.warm_up(threading.Event())
    assert model.state == "ready"
    assert [entry["event"] for entry in logs].count("cache_unusable") == 1


# Looking up


def key(model: ServedModel) -> tuple[str, int]:
    return model.name, model.version


def test_the_highest_version_answers_unless_one_is_asked_for(several):
    """By number: 12 comes after 3."""
    repository = loaded(several)
    assert key(repository.find("b")) == ("b", 12)
    assert key(repository.find("b", 3)) == ("b", 3)
    assert [key(model) for model in repository] == [("a", 1), ("b", 1), ("b", 3), ("b", 12)]


def test_an_only_model_is_the_default_in_all_its_versions(tmp_path):
    for version in (1, 2):
        write_color_model(tmp_path / "color" / f"{version}.onnx")
    repository = loaded(tmp_path)
    assert repository.models.default == "color"
    assert key(repository.find(None)) == ("color", 2)
    assert key(repository.find(None, 1)) == ("color", 1)


def test_of_several_models_none_is_the_default(several):
    """A request that names none is told the names."""
    repository = loaded(several)
    assert repository.models.default is None
    with pytest.raises(ModelRequiredError, match="a, b"):
        repository.find(None)
    with pytest.raises(ModelRequiredError):
        repository.find("")


def test_the_default_can_be_set(several):
    repository = loaded(several, default_model="b")
    assert key(repository.find(None)) == ("b", 12)
    assert key(repository.find("a")) == ("a", 1)


def test_an_unknown_version_is_told_the_known_ones(several):
    with pytest.raises(UnknownModelError, match="1, 3, 12") as caught:
        loaded(several).find("b", 2)
    assert caught.value.status == 404


@pytest.mark.parametrize(
    "name", ["c", "A", "a.onnx", "../several/a", "/etc/passwd", "b/1", "a\0", "*", "several"]
)
def test_an_unknown_name_is_told_the_known_ones(several, name):
    """A name is a key of a table, never a part of a path; and it isn't echoed."""
    with pytest.raises(UnknownModelError, match="a, b") as caught:
        loaded(several).find(name)
    assert caught.value.code == "unknown_model"
    assert len(name) < 2 or name not in str(caught.value)


# Warming up


def test_a_model_answers_only_after_warm_up(model_folder):
    metrics = Metrics()
    (model,) = loaded(model_folder, metrics)
    assert (model.state, model.reason) == ("warming", "warming up")
    with pytest.raises(NotReadyError, match="warming up"):
        model.batcher()
    with capture_logs() as logs:
        model.warm_up(threading.Event())
    assert (model.state, model.reason) == ("ready", "")
    assert [entry["event"] for entry in logs] == ["model_ready"]
    assert b'model_ready{model="color",version="1"} 1.0' in metrics.render()


def test_a_model_whose_runner_runs_still_answers_only_when_it_is_ready(model_folder):
    """The server starts runners first, so that probes are answered while models warm up."""
    repository = loaded(model_folder)
    (model,) = repository

    async def lifetime() -> None:
        repository.start()
        try:
            with pytest.raises(NotReadyError):
                model.batcher()
            model.warm_up(threading.Event())
            assert model.batcher() is model.batcher()
            assert model.trouble() is None
            model.machine.to(State.RELOADING, "for the test")
            with pytest.raises(NotReadyError, match="for the test"):
                model.batcher()
        finally:
            repository.close(timeout_s=20)

    asyncio.run(lifetime())
    with pytest.raises(AttributeError):
        model.engine.run([np.zeros((8, 8, 3), np.uint8)], ("probabilities",))


def test_a_model_is_warmed_at_every_batch_size(model_folder):
    (model,) = loaded(model_folder, max_batch=6)
    sizes = []
    run = model.engine.run

    def counted(pixels, outputs):
        sizes.append(len(pixels))
        return run(pixels, outputs)

    model.engine.run = counted
    model.warm_up(threading.Event())
    assert model.state == "ready"
    assert set(sizes) == {1, 2, 4, 6}


def test_a_model_that_disagrees_with_its_golden_cases_is_failed_and_says_why(tmp_path):
    """It loads, and would answer; but not what it answered where it was exported."""
    golden = (GoldenPattern(seed=1, probabilities=(0.2, 0.3, 0.5)),)
    write_color_model(tmp_path / "color.onnx", golden=golden)
    metrics = Metrics()
    repository = loaded(tmp_path, metrics)
    (model,) = repository
    with capture_logs() as logs:
        model.warm_up(threading.Event())
    assert model.state == "failed"
    assert "golden pattern 1 differs by" in model.reason
    assert [entry["event"] for entry in logs] == ["model_disagrees"]
    assert b'model_ready{model="color",version="1"} 0.0' in metrics.render()
    assert b'model_broken{model="color",version="1"} 1.0' in metrics.render()
    with pytest.raises(NotReadyError, match="golden pattern 1"):
        model.batcher()
    with pytest.raises(BrokenModelError, match="golden pattern 1"):
        repository.find("color")
    assert repository.models.needed() == [model], "nothing else can answer"


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, ["a 1", "b 1", "b 3"]),
        ({"default_model": "a"}, ["a 1", "b 1", "b 3"]),
        ({"default_model": "b"}, ["a 1", "b 1", "b 3", "b 12"]),
        ({"strict_models": True}, ["a 1", "b 1", "b 3", "b 12"]),
    ],
)
def test_a_model_that_disagrees_is_needed_only_by_default_or_when_strict(several, options, needed):
    golden = (GoldenPattern(seed=1, probabilities=(0.2, 0.3, 0.5)),)
    write_color_model(several / "b" / "12.onnx", golden=golden)
    repository = loaded(several, **options)
    for model in repository:
        model.warm_up(threading.Event())
    assert [f"{model.name} {model.version}" for model in repository.models.needed()] == needed
    assert [(broken.name, broken.version) for broken in repository.models.broken()] == [("b", 12)]


def test_a_model_that_could_not_run_is_broken_until_another_try_succeeds(several, monkeypatch):
    monkeypatch.setattr("service.models.model._RELOAD_FIRST_S", 0.2)
    repository = loaded(several)
    model = repository.find("a")

    def broken(pixels, outputs):
        raise RuntimeError("no such node")

    model.engine.run = broken
    with capture_logs():
        model.warm_up(threading.Event())
        assert model.broken
        wait_until(lambda: not repository.models.broken())
    assert repository.find("a") is model
    assert model.state == "ready"
    repository.close(60)


def test_a_model_that_can_not_run_is_failed_and_the_others_go_on(several, monkeypatch):
    repository = loaded(several)

    monkeypatch.setattr("service.models.model._RELOAD_FIRST_S", 60.0)

    def broken(pixels, outputs):
        raise RuntimeError("no such node")

    failed = repository.find("a")
    failed.engine.run = broken
    with capture_logs():
        for model in repository:
            model.warm_up(threading.Event())
    assert [model.state for model in repository if model is not failed] == ["ready"] * 3
    assert failed.state == "failed"
    assert "no such node" in failed.reason
    repository.close(1)


@pytest.mark.parametrize(
    ("max_batch", "expected"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])],
)
def test_the_batch_sizes_to_be_ready_for_are_powers_of_two_and_the_largest(max_batch, expected):
    assert buckets(max_batch) == expected


@given(max_batch=st.integers(1, 1024))
@settings(max_examples=100)
def test_every_batch_fits_a_size_at_most_twice_its_own(max_batch):
    sizes = buckets(max_batch)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == max_batch
    for batch in range(1, max_batch + 1):
        assert min(size for size in sizes if size >= batch) < 2 * batch


def test_a_pinned_version_is_the_one_that_must_work(tmp_path):
    for version in (1, 2):
        write_color_model(tmp_path / "color" / f"{version}.onnx")
    cut(tmp_path / "color" / "2.onnx")
    repository = loaded(tmp_path, model_versions={"color": "1"})
    assert repository.find("color").version == 1
    message = refusal(ModelSelectionError, tmp_path, model_versions={"color": "1:5,3:1"})
    assert "model color is to be answered by version 3" in message
    assert "has no file; available: 1, 2" in message
    message = refusal(ModelSelectionError, tmp_path, model_versions={"other": "latest"})
    assert message == "--model-versions: there is no model 'other'; available: color"
