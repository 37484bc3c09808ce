"""Reads what LoadGen wrote: its verdict, its figures, and its log of answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from service.bench.load import RIGHT
from service.bench.reference import Expected, judge

_PREFIX = ":::MLLOG "
_RESULTS = ("result_", "early_stopping_", "loadgen_version", "num_errors", "effective_")
_REASONS = ("result_invalid_reason", "early_stopping_result")
_METRICS = {
    "SingleStream": ("result_90.00_percentile_latency_ns", "90th percentile", "ms", 1e-6),
    "Server": ("result_completed_samples_per_sec", "completed", "samples/s", 1.0),
    "Offline": ("result_samples_per_second", "throughput", "samples/s", 1.0),
}


class Metric(NamedTuple):
    """A scenario's figure of merit."""

    name: str
    value: float
    unit: str


class Accuracy(NamedTuple):
    """How the logged answers compare with the reference's."""

    samples: int
    right: int
    missing: int
    """Images that LoadGen never got an answer logged for."""


def read_detail(folder: Path) -> dict[str, Any]:
    """Return the settings and results in LoadGen's `mlperf_log_detail.txt`, by its own names."""
    found: dict[str, Any] = {}
    for line in (folder / "mlperf_log_detail.txt").read_text("utf-8", "replace").splitlines():
        if not line.startswith(_PREFIX):
            continue
        try:
            entry = json.loads(line.removeprefix(_PREFIX))
            key, value = str(entry["key"]), entry["value"]
        except (ValueError, KeyError, TypeError):
            continue
        if key.startswith(_RESULTS):
            found[key] = value
    return found


def metric_of(scenario: str, detail: dict[str, Any]) -> Metric | None:
    """Return the figure that MLPerf compares systems by in that scenario, if the log has it."""
    key, name, unit, scale = _METRICS[scenario]
    return Metric(name, float(detail[key]) * scale, unit) if key in detail else None


def read_accuracy(folder: Path, expected: Sequence[Expected], tolerance: float) -> Accuracy:
    """Compare the answers in LoadGen's `mlperf_log_accuracy.json` with the reference answers.

    An answer is the body of the response, in hexadecimal; a failed query's is empty.
    """
    entries = json.loads((folder / "mlperf_log_accuracy.json").read_text("utf-8"))
    right, seen = 0, set()
    for entry in entries:
        image = int(entry["qsl_idx"])
        seen.add(image)
        right += judge(expected[image], bytes.fromhex(entry["data"]), tolerance) in RIGHT
    return Accuracy(len(entries), right, len(expected) - len(seen))


def render(report: dict[str, Any]) -> str:
    """Return the report as a few lines of text."""
    client, metric, accuracy = report["client"], report["metric"], report["accuracy"]
    lines = [
        f"{report['scenario']}, {report['mode']}: {'VALID' if report['valid'] else 'INVALID'} "
        f"(LoadGen: {report['loadgen_verdict'] or 'no verdict'}, "
        f"failed queries: {report['failed']})"
    ]
    if metric is not None:
        lines.append(f"{metric['name']}: {metric['value']:.4g} {metric['unit']}")
    if accuracy is not None:
        lines.append(
            f"right answers in LoadGen's log: {accuracy['right']} of {accuracy['samples']}, "
            f"images without one: {accuracy['missing']}"
        )
    if report["loadgen_verdict"] == "INVALID":
        told = (report["loadgen"].get(key) for key in _REASONS)
        lines += [f"LoadGen: {' '.join(reason.split())}" for reason in told if reason]
    lines += [f"{kind}: {count}" for kind, count in report["failures"].items()]
    if sent := client["sent_to_answer_ms"]:
        lines.append(
            f"from sending to the answer: p50 {sent['p50']:.2f} ms, p99 {sent['p99']:.2f} ms"
        )
    lines.append(
        f"client: {client['answered']} answers in {client['seconds']:.1f} s, "
        f"{client['cpu_cores']:.2f} cores, {client['most_in_flight']} in flight at most, "
        f"{client['waited_for_connection']} waited for a connection, {client['retries']} retries"
    )
    lines.append(f"LoadGen's logs: {report['log_dir']}")
    return "\n".join(lines)
