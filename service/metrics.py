"""All metrics, in one place. Names have the prefix `resnet_serve_` and use base units."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

# From half a millisecond (a small model on a GPU) to half a minute (a long queue).
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_MODEL = ("model", "version")
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """The metrics of one model; `Metrics` describes them."""

    name: str
    images: Mapping[str, Counter]
    abandoned: Counter
    coalesced: Counter
    queue_seconds: Histogram
    inference_seconds: Histogram
    batch_size: Histogram
    inference_failures: Counter
    slow_batches: Counter
    queue_length: Gauge
    ready: Gauge
    broken: Gauge
    agreement: Gauge
    show_info: Callable[..., None]
    """Shows `architecture`, `precision`, `provider` and `computed_in` instead of any before."""

    def batches(self) -> int:
        """Return how many batches were run."""
        (metric,) = self.inference_seconds.collect()
        return int(next(s.value for s in metric.samples if s.name.endswith("_count")))


class _Outcomes(dict[str, Counter]):
    """Counters by outcome, each looked up only once."""

    def __init__(self, find: Callable[[str], Counter]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, outcome: str) -> Counter:
        self[outcome] = counter = self._find(outcome)
        return counter


class Metrics:
    """The service's metrics, on their own registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        # The `_created` series double the exposition and are useless to Prometheus.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        # Only the default registry has these collectors.
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        # Finding a counter by its labels takes several times as long as counting.
        self._of_requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._requests = Counter(
            "resnet_serve_requests",
            "Requests answered.",
            ["route", "method", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "resnet_serve_request_duration_seconds",
            "Time from a request's headers to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.requests_in_flight = Gauge(
            "resnet_serve_requests_in_flight", "Requests being handled.", registry=registry
        )
        self._rejected = Counter(
            "resnet_serve_rejected",
            "Requests that ended in an error, by error code.",
            ["reason"],
            registry=registry,
        )
        self.images = Counter(
            "resnet_serve_images",
            "Images handled, by outcome (ok or an error code).",
            ["model", "version", "outcome"],
            registry=registry,
        )
        self.abandoned = Counter(
            "resnet_serve_images_abandoned",
            "Images dropped before inference because nobody was waiting for them any more.",
            list(_MODEL),
            registry=registry,
        )
        self.coalesced = Counter(
            "resnet_serve_images_coalesced",
            "Images answered from the computation of an identical in-flight image.",
            list(_MODEL),
            registry=registry,
        )
        self.decode_seconds = Histogram(
            "resnet_serve_decode_duration_seconds",
            "Time to decode and transform an image, including the wait for a thread.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "resnet_serve_queue_duration_seconds",
            "Time that a decoded image waits for a batch.",
            list(_MODEL),
            buckets=_SECONDS,
            registry=registry,
        )
        self.inference_seconds = Histogram(
            "resnet_serve_inference_duration_seconds",
            "Time that the engine takes to run a batch.",
            list(_MODEL),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "resnet_serve_batch_size",
            "Images per batch.",
            list(_MODEL),
            buckets=_BATCHES,
            registry=registry,
        )
        self.inference_failures = Counter(
            "resnet_serve_inference_failures",
            "Batches that failed in the engine.",
            list(_MODEL),
            registry=registry,
        )
        self.slow_batches = Counter(
            "resnet_serve_slow_batches",
            "Batches that took at least ten times the median for their size.",
            list(_MODEL),
            registry=registry,
        )
        self._queue_length = Gauge(
            "resnet_serve_queue_length",
            "Images admitted but not yet answered.",
            list(_MODEL),
            registry=registry,
        )
        self._inflight_bytes = Gauge(
            "resnet_serve_inflight_bytes",
            "Bytes of request bodies held in memory.",
            registry=registry,
        )
        self._ready = Gauge(
            "resnet_serve_model_ready",
            "1 when the model is ready.",
            list(_MODEL),
            registry=registry,
        )
        self._broken = Gauge(
            "resnet_serve_model_broken",
            "1 when the model file can't be loaded or failed its golden cases.",
            list(_MODEL),
            registry=registry,
        )
        self._model_info = Gauge(
            "resnet_serve_model_info",
            "Always 1; the labels describe the model being served.",
            ["model", "version", "architecture", "precision", "provider", "computed_in"],
            registry=registry,
        )
        self._agreement = Gauge(
            "resnet_serve_model_agreement",
            "Lower 95 % bound of the share of images that get the same label as in the file's own "
            "precision; 1 if the model is computed in that precision.",
            list(_MODEL),
            registry=registry,
        )
        self._loads = Counter(
            "resnet_serve_model_loads",
            "Models loaded or reloaded while serving, by outcome (ok or failed).",
            ["model", "outcome"],
            registry=registry,
        )
        self._evictions = Counter(
            "resnet_serve_model_evictions",
            "Models evicted to make room for others.",
            ["model"],
            registry=registry,
        )
        self._comparisons = Counter(
            "resnet_serve_rollout_comparisons",
            "Answers of a rollout compared with the other version's (agreed or differed), or "
            "dropped for want of room.",
            ["model", "version", "outcome"],
            registry=registry,
        )
        self._rollout_answers = Counter(
            "resnet_serve_rollout_answers",
            "Answers of a version that is being rolled out, by speed (fast or slow).",
            ["model", "version", "speed"],
            registry=registry,
        )
        self._rollout_stage = Gauge(
            "resnet_serve_rollout_stage",
            "Always 1; the label is where a rollout is (running, promoted or rolled_back).",
            ["model", "version", "stage"],
            registry=registry,
        )
        self.watch_failing = Gauge(
            "resnet_serve_watch_failing",
            "1 while the watched folder can't be read or has no models.",
            registry=registry,
        )
        self._of_models = (
            self.images,
            self.abandoned,
            self.coalesced,
            self.queue_seconds,
            self.inference_seconds,
            self.batch_size,
            self.inference_failures,
            self.slow_batches,
            self._queue_length,
            self._ready,
            self._broken,
            self._model_info,
            self._agreement,
        )
        self._build_info = Gauge(
            "resnet_serve_build_info", "Always 1; the label is the release.", ["version"],
            registry=registry,
        )  # fmt: skip

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request and observe its duration."""
        key = (route, method, status)
        found = self._of_requests.get(key)
        if found is None:
            found = self._requests.labels(*key), self._request_seconds.labels(route)
            self._of_requests[key] = found
        count, histogram = found
        count.inc()
        histogram.observe(seconds)

    def count_refusal(self, code: str) -> None:
        """Count a request that ended in an error."""
        self._rejected.labels(code).inc()

    def count_load(self, model: str, outcome: str) -> None:
        """Count a load while serving."""
        self._loads.labels(model, outcome).inc()

    def count_eviction(self, model: str) -> None:
        """Count a model that made room for another."""
        self._evictions.labels(model).inc()

    def count_comparison(self, model: str, version: int, outcome: str) -> None:
        """Count a comparison of a rollout."""
        self._comparisons.labels(model, str(version), outcome).inc()

    def count_rollout_answer(self, model: str, version: int, speed: str) -> None:
        """Count an answer of a version that is being rolled out."""
        self._rollout_answers.labels(model, str(version), speed).inc()

    def show_rollout(self, model: str, version: int, stage: str) -> None:
        """Show a model's last rollout instead of any before."""
        self._rollout_stage.remove_by_labels({"model": model})
        self._rollout_stage.labels(model, str(version), stage).set(1)

    def watch_bytes(self, held: Callable[[], float]) -> None:
        """Expose `held()`, the bytes of request bodies in memory."""
        self._inflight_bytes.set_function(held)

    def for_model(self, name: str, version: int) -> ModelMetrics:
        """Return one model's metrics, with labels bound so that no request has to look them up."""
        labels = (name, str(version))
        return ModelMetrics(
            name=name,
            images=_Outcomes(lambda outcome: self.images.labels(*labels, outcome)),
            abandoned=self.abandoned.labels(*labels),
            coalesced=self.coalesced.labels(*labels),
            queue_seconds=self.queue_seconds.labels(*labels),
            inference_seconds=self.inference_seconds.labels(*labels),
            batch_size=self.batch_size.labels(*labels),
            inference_failures=self.inference_failures.labels(*labels),
            slow_batches=self.slow_batches.labels(*labels),
            queue_length=self._queue_length.labels(*labels),
            ready=self._ready.labels(*labels),
            broken=self._broken.labels(*labels),
            agreement=self._agreement.labels(*labels),
            show_info=partial(self._show_info, name, str(version)),
        )

    def show_broken(self, name: str, version: int) -> None:
        """Expose a model whose file can't be loaded."""
        self._ready.labels(name, str(version)).set(0)
        self._broken.labels(name, str(version)).set(1)

    def forget_model(self, name: str, version: int) -> None:
        """Remove a model's metrics."""
        for metric in self._of_models:
            metric.remove_by_labels({"model": name, "version": str(version)})

    def _show_info(
        self, name: str, version: str, *, architecture: str, precision: str, provider: str,
        computed_in: str,
    ) -> None:  # fmt: skip
        self._model_info.remove_by_labels({"model": name, "version": version})
        shown = name, version, architecture, precision, provider, computed_in
        self._model_info.labels(*shown).set(1)

    def set_build(self, version: str) -> None:
        """Expose the release."""
        self._build_info.labels(version).set(1)

    def render(self) -> bytes:
        """Return the text exposition of all metrics."""
        return generate_latest(self.registry)
