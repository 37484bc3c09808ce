"""Measures how long a model file takes on this CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from service.contract import parse_contract
from service.engine.base import Engine, Pixels, probabilities
from service.engine.onnx import load_engine
from service.engine.providers import CPU
from service.golden import golden_pattern

BATCHES = (1, 8)
_ROUNDS, _ROUND_S = 5, 0.4


def latencies_ms(files: Sequence[Path], batches: Sequence[int] = BATCHES) -> list[dict[int, float]]:
    """Time each file at each batch size, with a thread per core; return milliseconds per batch.

    Files take turns, so that a temporary slowdown affects all of them, and the median of the rounds
    counts.
    """
    engines = [load_engine(file, provider=CPU.name) for file in files]
    try:
        rounds: list[list[dict[int, float]]] = [[] for _ in engines]
        for _ in range(_ROUNDS):
            for engine, times in zip(engines, rounds, strict=True):
                size = parse_contract(engine.metadata, file="").preprocessing.input_size
                images = [golden_pattern(seed, *size) for seed in range(max(batches))]
                times.append({size: _time(engine, images[:size]) for size in batches})
    finally:
        for engine in engines:
            engine.close()
    return [
        {size: statistics.median(row[size] for row in times) for size in batches}
        for times in rounds
    ]


def _time(engine: Engine, images: Pixels) -> float:
    probabilities(engine, images)
    count, started = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - started) < _ROUND_S or count == 0:
        probabilities(engine, images)
        count += 1
    return elapsed / count * 1000
