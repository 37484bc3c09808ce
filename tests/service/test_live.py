"""The summary of what the service is doing now."""

from __future__ import annotations

import math

import pytest
from clock import Clock

from service.live import Buckets, LiveSummary
from service.metrics import Metrics


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics()
    metrics.requests_in_flight.inc()  # the one that asks
    return metrics


@pytest.fixture
def live(metrics, clock) -> LiveSummary:
    return LiveSummary(metrics, lambda: clock.now)


def answered(metrics: Metrics, count: int, status: int = 200, seconds: float = 0.03) -> None:
    for _ in range(count):
        metrics.count_request("/v1/classify", "POST", status, seconds)


def test_rates_cover_the_time_since_the_start_at_first_and_then_since_it_was_first_asked_for(
    live, metrics, clock
):
    answered(metrics, 50)
    clock.now += 100
    first = live.current()
    assert first["window_s"] == 100
    assert first["requests"] == {
        "total": 50, "per_s": 0.5, "in_flight": 0, "by_status": {"200": 50},
    }  # fmt: skip
    answered(metrics, 20)
    answered(metrics, 4, status=503)
    clock.now += 2
    second = live.current()
    assert (second["uptime_s"], second["window_s"]) == (102, 2)
    assert second["requests"]["per_s"] == 12
    assert second["requests"]["by_status"] == {"200": 20, "503": 4}


def test_the_window_is_a_minute_at_most(live, metrics, clock):
    for _ in range(200):
        clock.now += 1
        answered(metrics, 3)
        shown = live.current()
    assert shown["window_s"] == 60
    assert shown["requests"]["per_s"] == 3
    assert shown["requests"]["total"] == 600


def test_what_was_asked_for_long_ago_does_not_count(live, metrics, clock):
    live.current()
    clock.now += 1000
    answered(metrics, 1)
    assert live.current()["window_s"] == 1000, "since the start: there is nothing later"
    clock.now += 1
    assert live.current()["requests"]["by_status"] == {}


def test_it_is_computed_once_a_second_however_many_ask(live, metrics, clock):
    before = live.current()
    answered(metrics, 5)
    clock.now += 0.99
    assert live.current() is before
    clock.now += 0.01
    assert live.current()["requests"]["total"] == 5


def test_requests_that_run_no_model_do_not_count(live, metrics, clock):
    clock.now += 1
    metrics.count_request("/v1/summary", "GET", 200, 0.001)
    metrics.count_request("/health", "GET", 503, 0.001)
    metrics.count_request("/health", "POST", 405, 0.001)
    metrics.count_request("unmatched", "POST", 404, 0.001)
    shown = live.current()
    assert shown["requests"]["total"] == 0
    assert shown["latency_ms"] == {"p50": None, "p90": None, "p99": None}


def test_percentiles_are_those_of_the_window(live, metrics, clock):
    answered(metrics, 1000, seconds=5)
    clock.now += 1
    live.current()
    answered(metrics, 90, seconds=0.03)
    answered(metrics, 10, seconds=0.7)
    clock.now += 1
    shown = live.current()["latency_ms"]
    assert 25 <= shown["p50"] <= 50
    assert 25 <= shown["p90"] <= 50
    assert 500 <= shown["p99"] <= 1000


def test_models_and_batches_are_shown(live, metrics, clock):
    one, other = metrics.for_model("a", 1), metrics.for_model("b", 3)
    for size in (1, 1, 3, 4, 300):
        one.batch_size.observe(size)
    one.images["ok"].inc(12)
    one.images["not_an_image"].inc(5)
    other.queue_length.set(7)
    clock.now += 2
    shown = live.current()
    assert shown["batch_sizes"] == {"1": 2, "4": 2, "inf": 1}
    assert shown["models"] == [
        {"name": "a", "version": 1, "images_per_s": 6, "queued": 0},
        {"name": "b", "version": 3, "images_per_s": 0, "queued": 7},
    ]


def test_a_model_that_was_replaced_counts_anew(live, metrics, clock):
    metrics.for_model("a", 1).images["ok"].inc(100)
    metrics.for_model("a", 1).batch_size.observe(8)
    live.current()
    metrics.forget_model("a", 1)
    clock.now += 1
    assert live.current()["models"] == []
    model = metrics.for_model("a", 1)
    model.images["ok"].inc(2)
    model.batch_size.observe(2)
    clock.now += 1
    shown = live.current()
    assert shown["models"][0]["images_per_s"] == 1
    assert all(count >= 0 for count in shown["batch_sizes"].values())


def test_a_model_that_came_back_and_did_more_than_before_counts_anew(live, metrics, clock):
    metrics.for_model("a", 1).batch_size.observe(2)
    live.current()
    metrics.forget_model("a", 1)
    for _ in range(3):
        metrics.for_model("a", 1).batch_size.observe(8)
    clock.now += 1
    assert live.current()["batch_sizes"] == {"8": 3}


@pytest.mark.parametrize(
    ("counts", "share", "expected"),
    [
        ({0.1: 10, 0.2: 10, math.inf: 10}, 0.5, 0.05),
        ({0.1: 0, 0.2: 10, math.inf: 10}, 0.5, 0.15),
        ({0.1: 0, 0.2: 4, math.inf: 8}, 0.99, 0.2),
        ({0.1: 5, 0.2: 10, math.inf: 10}, 0.5, 0.1),
        ({0.1: 0, 0.2: 0, math.inf: 0}, 0.5, None),
        ({}, 0.5, None),
    ],
)
def test_a_quantile_lies_in_its_bucket(counts, share, expected):
    found = Buckets(counts).quantile(share)
    assert found == (None if expected is None else pytest.approx(expected))
