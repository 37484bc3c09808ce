"""What the service is doing now, for people: rates, percentiles, batch sizes and queues.

Computed from the metrics, at most once a second however many ask.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from service.metrics import Metrics

_EVERY_S = 1.0
_WINDOW_S = 60.0
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
_MODEL = ("model", "version")

Key = tuple[str, ...]
"""Values of labels, such as a model's name and version."""


class _Metric(Protocol):
    """A metric of prometheus_client."""

    def collect(self) -> Iterable[Any]:
        """Return families of samples."""


class Buckets(Counter[float]):
    """A histogram: how many values were at most each bound, in order; the last is infinite."""

    def since(self, earlier: Buckets) -> Buckets:
        """Return the histogram of the values that came after an earlier one."""
        if any(earlier[bound] > n for bound, n in self.items()):  # of a model that came back
            return self
        return Buckets({bound: count - earlier[bound] for bound, count in self.items()})

    def quantile(self, share: float) -> float | None:
        """Estimate the value that a share of all values don't exceed; None if there are none.

        Like Prometheus's `histogram_quantile`: values count as spread evenly in their bucket, and
        those above the last finite bound as that bound.
        """
        rank = share * self[math.inf]
        for (low, below), (bound, count) in pairwise([(0.0, 0), *self.items()]):
            if count > below and count >= rank:
                if bound == math.inf:
                    return low
                return low + (bound - low) * (rank - below) / (count - below)
        return None

    def by_bound(self) -> dict[str, int]:
        """Return how many values are in each bucket that has any, by the bucket's upper bound."""
        steps = pairwise([(0.0, 0), *self.items()])
        return {f"{bound:g}": n - below for (_, below), (bound, n) in steps if n > below}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the summary needs of the metrics, at a time of the clock."""

    at: float
    answers: Mapping[Key, float]
    """Requests to routes that take POST, which are those that run models, by status."""
    images: Mapping[Key, float]
    """Images that got an answer, by model."""
    histograms: Mapping[str, Mapping[Key, Buckets]]

    @staticmethod
    def of(metrics: Metrics, at: float) -> Snapshot:
        """Read the metrics."""
        routes, answers = set[Key](), Counter[Key]()
        requests = _sums(metrics.requests, ("method", "status", "route"))
        for (method, status, route), count in requests.items():
            if method == "POST" and status != "405" and route != "unmatched":
                routes.add((route,))
                answers[status,] += int(count)
        latency = _histograms(metrics.request_seconds, ("route",))
        images = _sums(metrics.images, (*_MODEL, "outcome"))
        return Snapshot(
            at,
            answers,
            {key[:2]: count for key, count in images.items() if key[2] == "ok"},
            {
                "latency": {key: each for key, each in latency.items() if key in routes},
                "decode": _histograms(metrics.decode_seconds, ()),
                "queue": _histograms(metrics.queue_seconds, _MODEL),
                "infer": _histograms(metrics.inference_seconds, _MODEL),
                "batches": _histograms(metrics.batch_size, _MODEL),
            },
        )

    def since(self, earlier: Snapshot, name: str) -> Buckets:
        """Return a histogram since an earlier snapshot, of all models or routes together."""
        before, together = earlier.histograms.get(name, {}), Buckets()
        for key, buckets in self.histograms[name].items():
            together.update(buckets.since(before.get(key, Buckets())))
        return together


class LiveSummary:
    """Compares the metrics with those of up to a minute ago. Use it on one thread."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics, self._clock = metrics, clock
        self._at_start = Snapshot(clock(), {}, {}, {})
        self._taken: deque[Snapshot] = deque()
        self._shown: Mapping[str, Any] = {}

    def current(self) -> Mapping[str, Any]:
        """Return the summary, at most a second old.

        Rates and percentiles cover the last `window_s`: up to a minute, since the summary was first
        asked for in it; otherwise, since the start.
        """
        now, taken = self._clock(), self._taken
        if not taken or now - taken[-1].at >= _EVERY_S:
            while taken and now - taken[0].at > _WINDOW_S:
                taken.popleft()
            new = Snapshot.of(self._metrics, now)
            self._shown = self._compare(new, taken[0] if taken else self._at_start)
            taken.append(new)
        return self._shown

    def _compare(self, new: Snapshot, old: Snapshot) -> Mapping[str, Any]:
        seconds = max(new.at - old.at, _EVERY_S)
        statuses = _growth(new.answers, old.answers)
        images = _growth(new.images, old.images)
        queued = _sums(self._metrics.queue_length, _MODEL)
        in_flight = sum(_sums(self._metrics.requests_in_flight, ()).values())
        return {
            "uptime_s": round(new.at - self._at_start.at, 3),
            "window_s": round(seconds, 3),
            "requests": {
                "total": round(sum(new.answers.values())),
                "per_s": round(sum(statuses.values()) / seconds, 3),
                "in_flight": max(0, round(in_flight) - 1),  # without the one that asks
                "by_status": {key[0]: round(n) for key, n in sorted(statuses.items()) if n},
            },
            "latency_ms": _percentiles_ms(new.since(old, "latency")),
            "stages_ms": {
                stage: _percentiles_ms(new.since(old, stage))
                for stage in ("decode", "queue", "infer")
            },
            "batch_sizes": new.since(old, "batches").by_bound(),
            "models": [
                {
                    "name": name,
                    "version": int(version),
                    "images_per_s": round(images.get((name, version), 0) / seconds, 3),
                    "queued": round(images_waiting),
                }
                for (name, version), images_waiting in sorted(queued.items())
            ],
        }


def _sums(metric: _Metric, labels: Iterable[str]) -> dict[Key, float]:
    """Return the values of a counter or gauge, summed for each combination of some labels."""
    sums = Counter[Key]()
    for family in metric.collect():
        for sample in family.samples:
            sums[_key(sample, labels)] += sample.value
    return dict(sums)


def _histograms(metric: _Metric, labels: Iterable[str]) -> dict[Key, Buckets]:
    found: dict[Key, Buckets] = {}
    for family in metric.collect():
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                buckets = found.setdefault(_key(sample, labels), Buckets())
                buckets[float(sample.labels["le"])] = int(sample.value)
    return found


def _key(sample: Any, labels: Iterable[str]) -> Key:
    return tuple([sample.labels[label] for label in labels])


def _growth(new: Mapping[Key, float], old: Mapping[Key, float]) -> dict[Key, float]:
    """Return by how much counters have grown; those that began anew, from 0."""
    return {key: n - old.get(key, 0) if n >= old.get(key, 0) else n for key, n in new.items()}


def _percentiles_ms(buckets: Buckets) -> dict[str, float | None]:
    shown: dict[str, float | None] = {}
    for name, share in _PERCENTILES.items():
        seconds = buckets.quantile(share)
        shown[name] = None if seconds is None else round(seconds * 1000, 3)
    return shown
