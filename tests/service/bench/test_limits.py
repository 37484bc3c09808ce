"""What the machine could do without a server."""

from __future__ import annotations

import itertools
import json
import threading

import numpy as np
import pytest

from service.bench import limits, rates
from service.bench.cli import run_bench
from service.bench.pipeline import load_pipeline
from service.engine.base import probabilities


def test_layouts_have_at_most_two_threads_a_core():
    assert limits.layouts(2) == [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)]
    assert (3, 3) not in limits.layouts(3)
    assert all(callers * threads <= 12 for callers, threads in limits.layouts(6))
    assert (6, 1) in limits.layouts(6)
    assert (1, 6) in limits.layouts(6)


def test_both_limits_are_measured_and_reported(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rates, "SECONDS", 0.01)
    flags = {
        "limits": True, "images": "synthetic:32x32", "image_count": "4", "repeats": "2",
        "model_file": str(model_folder / "color.onnx"), "json_file": str(tmp_path / "r.json"),
        "html_file": str(tmp_path / "r.html"),
    }  # fmt: skip
    assert run_bench(flags) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert "runs" not in report, "with --limits alone no server is asked for anything"
    found = report["limits"]
    assert {row["batch"] for row in found["model"]} == set(limits.BATCHES)
    for rows in (found["model"], found["pipeline"]):
        assert {row["options"] for row in rows} == {"service", "defaults"}
    assert found["best_pipeline"] in found["pipeline"]
    for row in [*found["model"], *found["pipeline"]]:
        # A layout that gets no time on a busy machine measures nothing.
        assert 0 <= row["least"] <= row["images_per_s"] <= row["most"]
    assert found["best_model"]["images_per_s"] > 0
    assert found["best_model"]["images_per_s"] == max(r["images_per_s"] for r in found["model"])
    assert found["pipeline"][0]["name"] == "one loop on one thread"
    printed = capsys.readouterr().out
    assert "callers x intra-op threads" in printed
    assert "one loop on one thread" in printed
    assert "Limits without a server" in (tmp_path / "r.html").read_text()


def test_a_session_with_the_runtimes_defaults_gives_the_same_answers(model_folder):
    pixels = [*np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)]
    answers = []
    for defaults in (False, True):
        pipeline = load_pipeline(model_folder / "color.onnx", threads=2, runtime_defaults=defaults)
        answers.append(probabilities(pipeline.engine, pixels))
        pipeline.engine.close()
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


def test_an_interruption_ends_the_other_threads_too(monkeypatch):
    """None of them may be left waiting, or the program could not end."""
    before = threading.active_count()
    start, calls = threading.Thread.start, itertools.count()

    def second_is_interrupted(thread: threading.Thread) -> None:
        if next(calls) == 1:
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", second_is_interrupted)
    with pytest.raises(KeyboardInterrupt):
        rates.rate_of([lambda: 1, lambda: 1])
    while threading.active_count() > before:
        pass  # the test's timeout ends this if a thread stays


def test_a_failure_on_a_thread_is_not_lost(monkeypatch):
    monkeypatch.setattr(rates, "SECONDS", 0.01)

    def broken() -> int:
        raise RuntimeError("no model")

    with pytest.raises(RuntimeError, match="no model"):
        rates.rate_of([broken, broken])
