"""What the machine could do without a server: the model alone, and decode + model in one process.

Each layout is measured with both session options, and all of them in each of several rounds, so
that a temporary slowdown of the machine affects all alike; medians are reported.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bench.pipeline import Pipeline, load_pipeline
from service.bench.rates import decode_and_run, rate_of, staged_rate
from service.cpus import cpu_count
from service.engine.base import probabilities

BATCHES = (1, 2, 4, 8, 16)
_PIXELS = 64  # decoded images to feed the model with when it is measured alone

SERVICE, RUNTIME_DEFAULTS = OPTIONS = ("service", "defaults")
"""Session options: the service's own, or ONNX Runtime's defaults.

By default its threads spin while they wait, and it keeps a memory arena. Either can be faster, and
a limit is what the machine can do with the better one.
"""

ONE_THREAD = "one loop on one thread"
"""The simplest loop: decode, then run, one image after another."""

Pipelines = dict[tuple[int, str], Pipeline]
"""Pipelines by intra-op threads and options."""


def measure_limits(
    model_file: Path, images: Sequence[bytes], repeats: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Measure both limits; rates are in images per second. Raises `ModelFileError`."""
    cores = cpu_count()
    pipelines = {
        (threads, options): load_pipeline(
            model_file, threads=threads, runtime_defaults=options == RUNTIME_DEFAULTS
        )
        for threads in _powers(cores)
        for options in OPTIONS
    }
    try:
        pixels = [pipelines[1, SERVICE].decode(image) for image in images[:_PIXELS]]
        model = _model_alone(pipelines, pixels, cores, repeats, progress)
        best = max(model, key=lambda row: row["images_per_s"])
        pipeline = _decode_and_model(pipelines, images, cores, best, repeats, progress)
    finally:
        for each in pipelines.values():
            each.engine.close()
    return {
        "model_file": str(model_file),
        "repeats": repeats,
        "model": model,
        "best_model": best,
        "pipeline": pipeline,
        "best_pipeline": max(pipeline, key=lambda row: row["images_per_s"]),
    }


def layouts(cores: int) -> list[tuple[int, int]]:
    """Return pairs (callers, intra-op threads) with at most two threads per core in total."""
    threads = _powers(cores)
    callers = sorted({*threads, *_powers(2 * cores)})
    return [(c, t) for t in threads for c in callers if c * t <= 2 * cores]


def _powers(most: int) -> list[int]:
    """Return 1, 2, 4, ... and `most`."""
    return sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})


def _model_alone(
    pipelines: Pipelines, pixels: Sequence[NDArray[np.uint8]], cores: int, repeats: int,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    cases: list[dict[str, Any]] = [
        {"callers": callers, "threads": threads, "options": options, "batch": batch}
        for callers, threads in layouts(cores)
        for options in OPTIONS
        for batch in BATCHES
    ]
    batches = {n: [pixels[i % len(pixels)] for i in range(n)] for n in BATCHES}

    def run(case: dict[str, Any]) -> float:
        engine = pipelines[case["threads"], case["options"]].engine
        images = batches[case["batch"]]
        return rate_of([lambda: len(probabilities(engine, images))] * case["callers"])

    return in_rounds(cases, run, repeats, lambda done: progress(f"model alone {done}"))


def _decode_and_model(
    pipelines: Pipelines, images: Sequence[bytes], cores: int, best: dict[str, Any],
    repeats: int, progress: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    def loops(callers: int, threads: int, options: str) -> Callable[[], float]:
        return lambda: rate_of(
            [decode_and_run(pipelines[threads, options], images, i) for i in range(callers)]
        )

    def staged(runners: int, threads: int, batch: int, options: str) -> Callable[[], float]:
        return lambda: staged_rate(pipelines[threads, options], images, cores, runners, batch)

    cases: list[dict[str, Any]] = [
        {"name": name, "options": options, "measure": loops(callers, threads, options)}
        for name, callers, threads in (
            (ONE_THREAD, 1, 1),
            (f"one loop, model on {cores} threads", 1, cores),
            (f"{cores} loops of one thread", cores, 1),
        )
        for options in OPTIONS
    ]
    staged_layouts = [
        (1, cores, 1), (1, cores, 8), (cores, 1, 1), (cores, 1, 4), (cores, 1, 8),
        (best["callers"], best["threads"], best["batch"]),
    ]  # fmt: skip
    cases += [
        {
            "name": f"{cores} decoders, {runners} x {threads} threads, batches up to {batch}",
            "options": options,
            "measure": staged(runners, threads, batch, options),
        }
        for runners, threads, batch in dict.fromkeys(staged_layouts)
        for options in OPTIONS
    ]
    rows = in_rounds(
        cases, lambda case: float(case["measure"]()), repeats,
        lambda done: progress(f"decode + model {done}"),
    )  # fmt: skip
    return [{key: value for key, value in row.items() if key != "measure"} for row in rows]


def in_rounds(
    cases: Sequence[dict[str, Any]], run: Callable[[dict[str, Any]], float], repeats: int,
    progress: Callable[[str], None], clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:  # fmt: skip
    """Measure all cases in each round; return them with median, least and most."""
    rates: list[list[float]] = [[] for _ in cases]
    total, begun = repeats * len(cases), clock()
    progress(f"0/{total}")
    for done, (_, (index, case)) in enumerate(
        itertools.product(range(repeats), enumerate(cases)), 1
    ):
        rates[index].append(run(case))
        left_s = (clock() - begun) / done * (total - done)
        progress(f"{done}/{total}, about {left_s:.0f} s left")
    return [
        case | {"images_per_s": statistics.median(r), "least": min(r), "most": max(r)}
        for case, r in zip(cases, rates, strict=True)
    ]
