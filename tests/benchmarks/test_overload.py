"""Closed and open loops by turns against the real server."""

from __future__ import annotations

import argparse

import pytest
from overload import measure_overload, render, row_of

from service.bench.options import BenchOptions
from service.bench.prepare import prepare
from service.bench.progress import Progress
from service.models.files import builtin_file


def given(**changes) -> argparse.Namespace:
    values = {
        "model_file": builtin_file().path, "mode": "poisson", "factor": 4.0, "deadline_ms": 200.0,
        "clients": 8, "rounds": 1, "duration": 1.0, "closed_duration": 1.0, "warm_up": 0.2,
        "flags": [],
    }  # fmt: skip
    return argparse.Namespace(**values | changes)


def images_and_answers():
    options = BenchOptions(
        images="synthetic:64x64", image_count=5, reference="local", model_file=builtin_file().path
    )
    return prepare(options, Progress())


def test_an_open_loop_stands_between_two_closed_ones():
    rows: list[dict] = []
    measure_overload(given(), images_and_answers(), rows)
    (row,) = rows
    assert row["wrong"] == 0
    assert row["refused"] > 0  # four times what it carries
    assert row["answered"] + sum(row["errors"].values()) == row["requests"]
    assert row["ratio"] == row["goodput_per_s"] / row["carried_per_s"] > 0
    assert row["resident_last_mib"] > 20
    assert "goodput by the closed loops: median" in render(rows)


def test_a_server_that_cannot_start_is_told_with_its_log():
    with pytest.raises(RuntimeError, match=r"(?s)resnet-serve server did not get ready.*max.batch"):
        measure_overload(given(flags=["--max-batch", "-1"]), images_and_answers(), [])


def run_of(**changes) -> dict:
    return {
        "requests": 10, "ok": 6, "offered_per_s": 10.0, "goodput_per_s": 5.0, "past_deadline": 1,
        "latency_ms": {"p99": 90.0}, "errors": {"deadline_exceeded": 2, "wrong_answer": 2},
        "refusals": {"count": 0, "from_sent_ms": None}, "generator": {"cpu_cores": 0.1},
        "server": {"cpu_cores": 1.0, "usage": [{"rss_bytes": 2**20}, {"rss_bytes": 2**21}]},
    } | changes  # fmt: skip


def test_late_are_those_told_so_and_those_who_saw_it_themselves():
    row = row_of(run_of(), 8.0)
    assert row["ratio"] == 0.625
    assert (row["accepted_and_late"], row["past_deadline"], row["wrong"]) == (2, 1, 2)
    text = render([row, row_of(run_of(errors={}, past_deadline=0), 4.0)])
    assert "accepted and late: 3 of 14 (21.429%); wrong answers: 2" in text
    assert "median 0.94" in text
    assert "1 to 2" in text


def test_an_open_loop_without_answers_has_no_latency():
    row = row_of(run_of(ok=0, latency_ms=None, errors={}, past_deadline=0), 8.0)
    assert row["p99_ms"] is None
    assert "accepted and late: 0 of 0" in render([row])
