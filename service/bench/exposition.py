"""Parses Prometheus's text exposition, as far as a benchmark needs it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_MOST = 2.0**53  # beyond this, floats can't represent every integer

CPU_SECONDS, RESIDENT_BYTES = "process_cpu_seconds_total", "process_resident_memory_bytes"
BATCH_SIZE = "resnet_serve_batch_size"
_WANTED = (CPU_SECONDS, RESIDENT_BYTES, BATCH_SIZE)


@dataclass(frozen=True, slots=True)
class Exposition:
    """Series by metric name, each with its labels and value."""

    series: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        """Return the value of a metric's first series; None if there is none."""
        found = self.series.get(name)
        return found[0][1] if found else None

    def buckets(self, name: str, model: str | None) -> dict[float, float]:
        """Return a histogram's cumulative counts by upper bound, over all series of the model."""
        counts: dict[float, float] = {}
        for labels, value in self.series.get(f"{name}_bucket", ()):
            bound = _number(labels.get("le", ""))
            if bound is not None and (model is None or labels.get("model") == model):
                counts[bound] = counts.get(bound, 0.0) + value
        return dict(sorted(counts.items()))


def parse_exposition(text: str) -> Exposition:
    """Parse only the series that a benchmark shows, ignoring lines that are not samples.

    Parsing happens between two arrivals, so it must not take long.
    """
    series: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in text.splitlines():
        if line.startswith(_WANTED):
            for name, labels, value, *_ in _samples(line):
                if abs(value) <= _MOST:  # false for NaN
                    series.setdefault(name, []).append((labels, value))
    return Exposition(series)


def _samples(line: str) -> Iterator[Sample]:
    try:
        for family in text_string_to_metric_families(line):
            yield from family.samples
    except ValueError:
        return  # only this line is ignored: others may be valid


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number


def batch_sizes(before: Exposition, after: Exposition, model: str | None) -> dict[str, int]:
    """Return the number of batches between two scrapes, by size: "1", "2", "3-4", "5-8", ..."""
    old, new = before.buckets(BATCH_SIZE, model), after.buckets(BATCH_SIZE, model)
    sizes: dict[str, int] = {}
    lower = below = 0.0
    for bound, count in new.items():
        so_far = count - old.get(bound, 0.0)
        if so_far - below > 0:
            sizes[_range(lower + 1, bound)] = round(so_far - below)
        lower, below = bound, so_far
    return sizes


def _range(first: float, last: float) -> str:
    if math.isinf(last):
        return f"{first:g}+"
    return f"{first:g}" if first == last else f"{first:g}-{last:g}"
