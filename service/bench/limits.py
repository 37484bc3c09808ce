"""What the machine could do without a server: the model alone, and decode + model in one process.

Every layout is measured in each of several rounds, so that a machine that slows down for a while
does so for all of them; medians are reported.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bench.pipeline import Pipeline, load_pipeline
from service.bench.rates import decode_and_run, rate_of, staged_rate
from service.cpus import cpu_count

BATCHES = (1, 2, 4, 8, 16)
_PIXELS = 64  # decoded images that the model alone is fed with


def measure_limits(
    model_file: Path, images: Sequence[bytes], repeats: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Measure both limits; rates are images a second. Raises `ModelFileError`."""
    cores = cpu_count()
    pipelines = {threads: load_pipeline(model_file, threads=threads) for threads in _powers(cores)}
    try:
        pixels = [pipelines[1].decode(image) for image in images[:_PIXELS]]
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
    """Give (callers, intra-op threads) with at most two threads a core in all."""
    threads = _powers(cores)
    callers = sorted({*threads, *_powers(2 * cores)})
    return [(c, t) for t in threads for c in callers if c * t <= 2 * cores]


def _powers(most: int) -> list[int]:
    """Give 1, 2, 4, ... and `most`."""
    return sorted({2**i for i in range(most.bit_length()) if 2**i <= most} | {most})


def _model_alone(
    pipelines: dict[int, Pipeline], pixels: Sequence[NDArray[np.uint8]], cores: int, repeats: int,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    cases: list[dict[str, Any]] = [
        {"callers": callers, "threads": threads, "batch": batch}
        for callers, threads in layouts(cores)
        for batch in BATCHES
    ]
    batches = {n: np.stack([pixels[i % len(pixels)] for i in range(n)]) for n in BATCHES}

    def run(case: dict[str, Any]) -> float:
        engine, images = pipelines[case["threads"]].engine, batches[case["batch"]]
        return rate_of([lambda: len(engine.run(images))] * case["callers"])

    return _in_rounds(cases, run, repeats, lambda done: progress(f"model alone {done}"))


def _decode_and_model(
    pipelines: dict[int, Pipeline], images: Sequence[bytes], cores: int, best: dict[str, Any],
    repeats: int, progress: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    def loops(callers: int, threads: int) -> Callable[[], float]:
        return lambda: rate_of(
            [decode_and_run(pipelines[threads], images, i) for i in range(callers)]
        )

    def staged(runners: int, threads: int, batch: int) -> Callable[[], float]:
        return lambda: staged_rate(pipelines[threads], images, cores, runners, batch)

    cases: list[dict[str, Any]] = [
        {"name": "one loop on one thread", "measure": loops(1, 1)},
        {"name": f"one loop, model on {cores} threads", "measure": loops(1, cores)},
        {"name": f"{cores} loops of one thread", "measure": loops(cores, 1)},
    ]
    staged_layouts = [
        (1, cores, 1), (1, cores, 8), (cores, 1, 1), (cores, 1, 4), (cores, 1, 8),
        (best["callers"], best["threads"], best["batch"]),
    ]  # fmt: skip
    for runners, threads, batch in dict.fromkeys(staged_layouts):
        name = f"{cores} decoders, {runners} x {threads} threads, batches up to {batch}"
        cases.append({"name": name, "measure": staged(runners, threads, batch)})
    rows = _in_rounds(
        cases, lambda case: float(case["measure"]()), repeats,
        lambda done: progress(f"decode + model {done}"),
    )  # fmt: skip
    return [{key: value for key, value in row.items() if key != "measure"} for row in rows]


def _in_rounds(
    cases: Sequence[dict[str, Any]], run: Callable[[dict[str, Any]], float], repeats: int,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Measure all cases in each round; gives them with median, least and most."""
    rates: list[list[float]] = [[] for _ in cases]
    for done, (_, (index, case)) in enumerate(
        itertools.product(range(repeats), enumerate(cases)), 1
    ):
        rates[index].append(run(case))
        progress(f"{done}/{repeats * len(cases)}")
    return [
        case | {"images_per_s": statistics.median(r), "least": min(r), "most": max(r)}
        for case, r in zip(cases, rates, strict=True)
    ]
