"""The simulated engine, and the servers that are compared with its help."""

from __future__ import annotations

import argparse
import threading
import time

import numpy as np
import pytest
from simulated import bound_by, measure_path, render_path
from simulated_engine import FAST_GPU_MS, SimulatedEngine, batch_ms, best_rate, parse_table
from simulated_processes import serving_simulated

from service.contract import ModelContract, parse_contract
from service.engine.base import probabilities
from service.engine.onnx import load_engine
from service.golden import check_golden
from service.models.files import builtin_file


@pytest.fixture(scope="module")
def contract() -> ModelContract:
    """The built-in model's."""
    engine = load_engine(builtin_file().path, provider="cpu")
    try:
        return parse_contract(engine.metadata, file="built-in")
    finally:
        engine.close()


def images(*values: int) -> list[np.ndarray]:
    return [np.full((64, 64, 3), value, np.uint8) for value in values]


def seconds_of(engine: SimulatedEngine, batch: list[np.ndarray]) -> float:
    started = time.perf_counter()
    probabilities(engine, batch)
    return time.perf_counter() - started


def test_a_table_is_read_and_sorted():
    assert parse_table("8:2.5,1:1") == {1: 1.0, 8: 2.5}
    assert list(parse_table("8:2.5,1:1")) == [1, 8]


@pytest.mark.parametrize("text", ["", "1", "1:", "0:1", "1:0", "1:nan", "a:1", "1:1,,2:2"])
def test_what_is_no_table_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not SIZE:MILLISECONDS"):
        parse_table(text)


@pytest.mark.parametrize(
    ("size", "ms"), [(1, 2.0), (2, 2.0), (3, 3.0), (4, 4.0), (8, 6.0), (16, 12.0), (32, 24.0)]
)
def test_times_between_and_beyond_those_of_the_table(size, ms):
    assert batch_ms({2: 2.0, 4: 4.0, 8: 6.0}, size) == ms


def test_the_best_rate_is_that_of_the_best_batch():
    assert best_rate({1: 1.0, 2: 1.0, 4: 4.0}, 4) == 2000
    assert best_rate(FAST_GPU_MS, 32) == pytest.approx(32 / 3.67 * 1000)


def test_a_batch_takes_what_the_table_says(contract):
    engine = SimulatedEngine(contract, {1: 5.0, 4: 40.0})
    assert seconds_of(engine, images(1)) >= 0.005
    assert seconds_of(engine, images(1, 2, 3, 4)) >= 0.040
    engine.prepare((1, 4))
    assert seconds_of(engine, images(1, 2)) >= 0.040, "padded"


def test_two_callers_share_one_device(contract):
    engine = SimulatedEngine(contract, {1: 30.0})
    threads = [threading.Thread(target=probabilities, args=(engine, images(i))) for i in range(2)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.perf_counter() - started >= 0.060


def test_answers_are_probabilities_that_depend_on_the_image_alone(contract):
    engine = SimulatedEngine(contract, {1: 0.01})
    answers = probabilities(engine, images(10, 20, 30))
    assert answers.shape == (3, len(contract.labels))
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)
    assert len({int(row.argmax()) for row in answers}) == 3
    np.testing.assert_array_equal(probabilities(engine, images(30, 10)), answers[[2, 0]])


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_golden_cases_have_their_known_answers(contract, batch):
    report = check_golden(SimulatedEngine(contract, {1: 0.01}), contract, batch)
    assert report.failures == ()
    assert report.max_abs_diff == 0


@pytest.mark.parametrize(
    ("server", "client", "cores", "named"),
    [
        (1.3, 0.6, 2, "all of the machine"),
        (1.1, 0.1, 2, "Python"),
        (0.5, 1.0, 4, "the client"),
        (0.3, 0.1, 2, "waiting"),
    ],
)
def test_what_limits_is_named(server, client, cores, named):
    assert named in bound_by(server, client, cores)


def test_the_three_servers_are_loaded_in_turn():
    arguments = argparse.Namespace(
        rounds=1, clients=[1, 32], images="synthetic:64x64", image_count=5, duration=1.0,
        warm_up=0.1,
    )  # fmt: skip
    report = measure_path(arguments, {1: 1.0, 8: 2.0}, ["--runners", "1"])
    assert report["errors"] == 0
    assert [(run["kind"], run["clients"]) for run in report["runs"]] == [
        ("empty", 1), ("decode", 1), ("service", 1),
        ("empty", 32), ("decode", 32), ("service", 32),
    ]  # fmt: skip
    assert all(run["throughput_per_s"] > 0 for run in report["runs"])
    assert report["decode_alone_ms"] > 0
    alone, many = report["rows"]
    assert report["ratio"] == many["ratio"] > 0
    assert list(many["service"]["stages_p50_ms"]) == ["receive", "decode", "queue", "infer"]
    # A single client waits for the device each time, whose time the table says.
    assert alone["service"]["stages_p50_ms"]["infer"] >= 1.0
    assert "service/empty with 32 clients" in render_path(report, 2)


def test_a_server_that_does_not_start_is_told_with_its_log():
    with (
        pytest.raises(RuntimeError, match="the service server did not get ready"),
        serving_simulated("service", {1: 1.0}, ["--max-batch", "-1"]),
    ):
        pass
