"""Metrics: their names, their buckets, and a registry of their own."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from service.metrics import CONTENT_TYPE, Metrics

HISTOGRAMS = {
    "resnet_serve_request_duration_seconds",
    "resnet_serve_decode_duration_seconds",
    "resnet_serve_queue_duration_seconds",
    "resnet_serve_inference_duration_seconds",
    "resnet_serve_batch_size",
}


def families(metrics: Metrics) -> dict:
    return {
        family.name: family for family in text_string_to_metric_families(metrics.render().decode())
    }


def value(metrics: Metrics, sample: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(sample, labels)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def test_two_services_in_one_process_count_for_themselves(metrics):
    """No default registry is used, so none is shared."""
    other = Metrics()
    metrics.count_request("/v1/classify", "POST", 200, 0.1)
    labels = {"route": "/v1/classify", "method": "POST", "status": "200"}
    assert value(metrics, "resnet_serve_requests_total", **labels) == 1
    assert value(other, "resnet_serve_requests_total", **labels) is None


def test_a_registry_can_be_passed_in():
    registry = CollectorRegistry()
    assert Metrics(registry).registry is registry


def test_every_metric_has_the_prefix_a_type_and_a_help_text(metrics):
    metrics.for_model("m", 1)
    ours = {
        name: family
        for name, family in families(metrics).items()
        if not name.startswith(("process_", "python_"))
    }
    assert set(ours) >= HISTOGRAMS
    for name, family in ours.items():
        assert name.startswith("resnet_serve_")
        assert family.documentation.endswith(".") or "1" in family.documentation
        assert family.type in {"counter", "gauge", "histogram"}


def test_the_exposition_has_no_created_series(metrics):
    """They double it and are of no use to Prometheus."""
    metrics.for_model("m", 1).queue_seconds.observe(1)
    assert b"_created" not in metrics.render()


def test_the_process_is_measured_too(metrics):
    """A registry of one's own lacks these collectors unless they are added."""
    names = families(metrics)
    assert "process_resident_memory_bytes" in names
    assert "process_cpu_seconds" in names
    assert "python_info" in names


def test_durations_have_buckets_from_half_a_millisecond(metrics):
    metrics.for_model("m", 1)
    for name in HISTOGRAMS - {"resnet_serve_batch_size"}:
        if name == "resnet_serve_request_duration_seconds":
            metrics.count_request("/v1/classify", "POST", 200, 0.1)
        bounds = [
            float(sample.labels["le"])
            for sample in families(metrics)[name].samples
            if sample.name.endswith("_bucket")
        ]
        assert bounds[0] == 0.0005
        assert bounds[-1] == float("inf")
        assert bounds == sorted(bounds)


def test_each_batch_size_that_is_warmed_has_a_bucket(metrics):
    metrics.for_model("m", 1).batch_size.observe(3)
    labels = {"model": "m", "version": "1"}
    assert value(metrics, "resnet_serve_batch_size_bucket", le="2.0", **labels) == 0
    assert value(metrics, "resnet_serve_batch_size_bucket", le="4.0", **labels) == 1


def test_a_models_metrics_carry_its_name_and_version(metrics):
    of = metrics.for_model("color", 3)
    labels = {"model": "color", "version": "3"}
    of.images["ok"].inc(2)
    of.abandoned.inc()
    of.inference_failures.inc()
    assert value(metrics, "resnet_serve_images_total", outcome="ok", **labels) == 2
    assert value(metrics, "resnet_serve_images_abandoned_total", **labels) == 1
    assert value(metrics, "resnet_serve_inference_failures_total", **labels) == 1


def test_what_is_waiting_is_asked_for_when_it_is_shown(metrics):
    of = metrics.for_model("m", 1)
    waiting, held, ready = [1, 2, 3], {"bytes": 7}, {"now": False}
    of.queue_length.set_function(lambda: len(waiting))
    of.ready.set_function(lambda: ready["now"])
    metrics.watch_bytes(lambda: held["bytes"])
    labels = {"model": "m", "version": "1"}
    assert value(metrics, "resnet_serve_queue_length", **labels) == 3
    assert value(metrics, "resnet_serve_model_ready", **labels) == 0
    assert value(metrics, "resnet_serve_inflight_bytes") == 7
    waiting.clear()
    held["bytes"] = 0
    ready["now"] = True
    assert value(metrics, "resnet_serve_queue_length", **labels) == 0
    assert value(metrics, "resnet_serve_model_ready", **labels) == 1
    assert value(metrics, "resnet_serve_inflight_bytes") == 0


def test_what_is_served_and_by_which_release_stands_in_labels(metrics):
    metrics.set_build("1.2.3")
    metrics.for_model("m", 2).show_info(architecture="resnet50", precision="fp32", provider="cpu")
    assert value(metrics, "resnet_serve_build_info", version="1.2.3") == 1
    labels = {"architecture": "resnet50", "precision": "fp32", "provider": "cpu"}
    assert value(metrics, "resnet_serve_model_info", model="m", version="2", **labels) == 1


def test_a_label_that_a_client_could_choose_is_escaped(metrics):
    """As a method with a quote would be; one odd request must not break every scrape."""
    metrics.count_request("unmatched", 'GE"T\n\\', 405, 0.1)
    (sample,) = families(metrics)["resnet_serve_requests"].samples
    assert sample.labels["method"] == 'GE"T\n\\'


def test_the_content_type_is_that_of_the_text_format():
    assert CONTENT_TYPE.startswith("text/plain; version=")
