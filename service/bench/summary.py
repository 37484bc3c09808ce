"""Computes figures from samples. Latencies are in milliseconds, rates per second."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.bench.load import CHANGED_LABEL, RIGHT, Sample

STAGES = ("receive", "decode", "queue", "infer")
"""The stages in the Server-Timing header, in order."""

_REFUSED = {429, 503}
_CDF_POINTS = 200
_STAGE = re.compile(r"[\w!#$%&'*+.^`|~-]{1,64}", re.ASCII)  # a token of RFC 9110
_MOST_MS = 1e9  # twelve days

Floats = NDArray[np.float64]


class Window(NamedTuple):
    """The measured time, in `time.perf_counter` seconds; the warm-up comes before it."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Return the length of the window."""
        return self.end - self.start


def spread(values: Floats | Sequence[float]) -> dict[str, float] | None:
    """Return the mean, p50, p95, p99 (linearly interpolated) and max; None without values."""
    if len(values) == 0:
        return None
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {
        "mean": float(np.mean(values)), "p50": float(p50), "p95": float(p95), "p99": float(p99),
        "max": float(np.max(values)),
    }  # fmt: skip


def summarise(
    samples: Sequence[Sample], window: Window, deadline_ms: float | None
) -> dict[str, Any]:
    """Return the figures of one run.

    Latencies, errors and lateness are those of requests *scheduled* in the window; throughput and
    goodput count right answers that *arrived* in it, so that a queue left over from the warm-up or
    at the end does not distort the rate.
    """
    inside = [s for s in samples if window.start <= s.scheduled < window.end]
    good = [s for s in inside if s.kind in RIGHT]
    refused = [s for s in inside if s.status in _REFUSED]
    came = latencies_ms(
        s for s in samples if s.kind in RIGHT and window.start <= s.ended < window.end
    )
    in_time = came if deadline_ms is None else came[came <= deadline_ms]
    errors = Counter(s.kind for s in inside if s.kind not in RIGHT)
    before = Counter(s.kind for s in samples if s.scheduled < window.start and s.kind not in RIGHT)
    changed = sum(s.kind == CHANGED_LABEL for s in good)
    late = latencies_ms(good) > deadline_ms if deadline_ms is not None else np.empty(0)
    return {
        "seconds": window.seconds,
        "requests": len(inside),
        "ok": len(good),
        "changed_labels": changed,
        "agreement": 1 - changed / len(good) if good else None,
        "offered_per_s": len(inside) / window.seconds,
        "throughput_per_s": len(came) / window.seconds,
        "goodput_per_s": len(in_time) / window.seconds,
        "past_deadline": int(np.sum(late)),
        "latency_ms": spread(latencies_ms(good)),
        "refusals": {
            "count": len(refused),
            "latency_ms": spread(latencies_ms(refused)),
            "from_sent_ms": spread([(s.ended - s.sent) * 1000 for s in refused]),
        },
        "errors": dict(errors.most_common()),
        "warm_up_errors": dict(before.most_common()),
        "lateness_ms": spread([(s.sent - s.scheduled) * 1000 for s in inside if s.sent]),
        "waited_for_connection": sum(s.waited for s in inside),
        "stages_ms": stages_ms(good),
        "cdf_ms": cdf(latencies_ms(good)),
        "series": series(samples, window),
    }


def latencies_ms(samples: Iterable[Sample]) -> Floats:
    """Return the latencies, measured from the scheduled arrival, in milliseconds."""
    return np.array([(s.ended - s.scheduled) * 1000 for s in samples], np.float64)


def parse_timing(header: bytes) -> dict[str, float]:
    """Parse a Server-Timing header into milliseconds by stage.

    Entries without a valid name or `dur` are left out.
    """
    stages = {}
    for entry in header.decode("latin-1").split(","):
        name, *parameters = (part.strip() for part in entry.split(";"))
        for parameter in parameters:
            key, _, value = parameter.partition("=")
            if key.strip().lower() != "dur" or not _STAGE.fullmatch(name):
                continue
            try:
                ms = float(value.strip().strip('"'))
            except ValueError:
                continue
            if 0 <= ms <= _MOST_MS:  # false for NaN
                stages[name] = ms
    return stages


def stages_ms(samples: Iterable[Sample]) -> dict[str, dict[str, float]]:
    """Return the spread of each stage's time."""
    values: dict[str, list[float]] = {}
    for sample in samples:
        for stage, ms in parse_timing(sample.timing).items():
            values.setdefault(stage, []).append(ms)
    known = [stage for stage in STAGES if stage in values]
    others = sorted(set(values) - set(STAGES))
    return {stage: found for stage in [*known, *others] if (found := spread(values[stage]))}


def cdf(values: Floats) -> list[tuple[float, float]]:
    """Return points (latency, fraction of values up to it), thinned out except for the tail."""
    if len(values) == 0:
        return []
    ordered = np.sort(values)
    even = np.linspace(0, 1, _CDF_POINTS)
    tail = 1 - np.logspace(-1, -4, 40)  # as many between p99 and p99.9 as between p90 and p99
    fractions = np.unique(np.concatenate([even, tail]))
    return list(zip(np.quantile(ordered, fractions).tolist(), fractions.tolist(), strict=True))


def series(samples: Sequence[Sample], window: Window) -> list[dict[str, float | None]]:
    """Return throughput, errors and latency for each second, by arrival of the answers."""
    rows: list[dict[str, float | None]] = []
    step = min(1.0, window.seconds)
    steps = max(int(window.seconds / step + 1e-6), 1)
    buckets: list[list[Sample]] = [[] for _ in range(steps)]
    for sample in samples:
        index = int((sample.ended - window.start) // step)
        if 0 <= index < steps:
            buckets[index].append(sample)
    for index, bucket in enumerate(buckets):
        found = spread(latencies_ms(s for s in bucket if s.kind in RIGHT))
        right = sum(s.kind in RIGHT for s in bucket)
        rows.append(
            {
                "at_s": (index + 0.5) * step,
                "throughput_per_s": right / step,
                "errors_per_s": (len(bucket) - right) / step,
                "p50_ms": found["p50"] if found else None,
                "p99_ms": found["p99"] if found else None,
            }
        )
    return rows
