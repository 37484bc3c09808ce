"""Figures from samples, against numpy and by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from service.bench.load import CHANGED_LABEL, OK, Sample
from service.bench.summary import Window, cdf, parse_timing, series, spread, stages_ms, summarise

WINDOW = Window(10.0, 12.0)


def sample(
    at: float, ms: float, kind: str = OK, *, sent: float | None = None, status: int = 200,
    timing: bytes = b"", waited: bool = False,
) -> Sample:  # fmt: skip
    return Sample(at, at if sent is None else sent, at + ms / 1000, kind, status, timing, waited)


def test_percentiles_are_numpys():
    values = np.random.default_rng(0).exponential(10, 999)
    figures = spread(values)
    assert figures is not None
    assert [figures[key] for key in ("mean", "p50", "p95", "p99", "max")] == pytest.approx(
        [values.mean(), *np.percentile(values, (50, 95, 99)), values.max()]
    )
    assert spread([]) is None


def test_latency_counts_from_the_scheduled_arrival_not_from_sending():
    """Else a generator that is held up would hide what a user waits."""
    figures = summarise([sample(10.5, 300, sent=10.7, waited=True)], WINDOW, None)
    assert figures["latency_ms"]["max"] == pytest.approx(300)
    assert figures["lateness_ms"]["max"] == pytest.approx(200)
    assert figures["waited_for_connection"] == 1


def test_only_what_is_in_the_window_counts():
    """Latencies by when they were scheduled, throughput by when they came."""
    samples = [
        sample(9.0, 10),  # warm-up
        sample(9.9, 200),  # scheduled before, came inside
        sample(10.0, 10),
        sample(11.9, 200),  # scheduled inside, came after
        sample(12.0, 10),
    ]
    figures = summarise(samples, WINDOW, None)
    assert figures["requests"] == figures["ok"] == 2
    assert figures["throughput_per_s"] == 1.0
    assert figures["latency_ms"]["max"] == pytest.approx(200)


def test_goodput_is_what_came_within_the_deadline():
    samples = [sample(10.1, ms) for ms in (50, 99, 101, 150)]
    figures = summarise(samples, WINDOW, 100)
    assert figures["throughput_per_s"] == 2
    assert figures["goodput_per_s"] == 1
    assert figures["past_deadline"] == 2


def test_errors_are_counted_by_kind_and_are_no_answers():
    samples = [
        sample(10.1, 5, "queue_full", status=503, sent=10.101),
        sample(10.2, 5, "queue_full", status=503, sent=10.201),
        sample(10.3, 5, "wrong_answer"),
        sample(10.4, 1000, "timeout", status=0, sent=0.0),
        sample(10.5, 5),
    ]
    figures = summarise(samples, WINDOW, None)
    assert figures["errors"] == {"queue_full": 2, "wrong_answer": 1, "timeout": 1}
    assert figures["ok"] == 1
    assert figures["refusals"]["count"] == 2
    assert figures["refusals"]["latency_ms"]["max"] == pytest.approx(5)
    assert figures["refusals"]["from_sent_ms"]["max"] == pytest.approx(4)


def test_errors_of_the_warm_up_are_counted_by_themselves():
    samples = [sample(9, 5, "timeout"), sample(9.5, 5, "timeout"), sample(9, 5), sample(10, 5)]
    figures = summarise([*samples, sample(9.9, 5, "wrong_answer")], WINDOW, None)
    assert figures["errors"] == {}
    assert figures["warm_up_errors"] == {"timeout": 2, "wrong_answer": 1}
    assert figures["requests"] == 1


def test_a_changed_label_is_a_right_answer_that_lowers_the_agreement():
    kinds = [OK, OK, CHANGED_LABEL, OK, "wrong_answer"]
    figures = summarise([sample(10.1, 5, kind) for kind in kinds], WINDOW, None)
    assert (figures["ok"], figures["changed_labels"], figures["agreement"]) == (4, 1, 0.75)
    assert figures["errors"] == {"wrong_answer": 1}
    assert figures["throughput_per_s"] == 2
    assert summarise([sample(10.1, 5, "timeout")], WINDOW, None)["agreement"] is None


def test_no_samples_give_a_report_all_the_same():
    figures = summarise([], WINDOW, 100)
    assert figures["latency_ms"] is None
    assert figures["cdf_ms"] == []
    assert len(figures["series"]) == 2


def test_server_timing_is_read_and_nonsense_passed_over():
    header = b'receive;dur=0.4, decode;desc="x";dur=1.5, cache, queue;dur=soon'
    assert parse_timing(header) == {"receive": 0.4, "decode": 1.5}
    assert parse_timing(b"") == {}


@pytest.mark.parametrize("ms", ["nan", "inf", "-inf", "1e308", "-1"])
def test_a_time_that_can_be_none_is_passed_over(ms):
    assert parse_timing(f"infer;dur={ms}, decode;dur=1".encode()) == {"decode": 1}


@pytest.mark.parametrize("name", [b"\x1b[31mred", b"a b", b"", b"x" * 65, b"\xff"])
def test_a_stage_has_a_plain_name(name):
    assert parse_timing(name + b";dur=1, decode;dur=1") == {"decode": 1}


def test_stages_come_in_the_order_of_the_road():
    timed = [sample(10, 5, timing=b"infer;dur=3, decode;dur=1, other;dur=9")] * 3
    assert list(stages_ms(timed)) == ["decode", "infer", "other"]
    assert stages_ms(timed)["infer"]["p95"] == 3


def test_the_distribution_rises_to_one_at_the_slowest():
    points = cdf(np.random.default_rng(0).exponential(10, 5000))
    assert points[-1][1] == 1
    assert all(a[0] <= b[0] and a[1] < b[1] for a, b in pairwise(points))


def test_each_second_has_its_throughput_errors_and_latency():
    samples = [sample(10.1, 10), sample(10.2, 30), sample(11.5, 10, "timeout", status=0)]
    first, second = series(samples, WINDOW)
    assert (first["throughput_per_s"], first["errors_per_s"]) == (2, 0)
    assert first["p50_ms"] == pytest.approx(20)
    assert (second["throughput_per_s"], second["errors_per_s"]) == (0, 1)
    assert second["p99_ms"] is None
