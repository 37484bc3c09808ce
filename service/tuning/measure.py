"""Measures candidates for the parallelism: the same model, opened with each one's threads.

Disturbances make runs slower, never faster. So candidates are measured in both orders (A, B, C, C,
B, A), the better of a candidate's two results counts, and each result is based on the faster runs:
when one candidate was measured as if it were two, the difference was half of that with means. Only
one session is open at a time, since there may not be memory for two.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engine.base import Engine, Opener, Pixels, probabilities
from service.engine.providers import Provider
from service.tuning.parallelism import Parallelism, Trial, is_steady

_MOST_RUNS = 32
_ENOUGH_S, _ENOUGH_RUNS = 0.03, 2
_TOO_LONG_S = 0.5
"""A figure is based on at most 32 runs, 2 if these exceed 30 ms together, or 1 of over 0.5 s."""

_FULL_BATCH = 4
"""Larger batches gain little more on a CPU and would take long to measure."""

_LONGEST_BATCH_S = 1.0
"""A model whose batch of 4 takes longer is only measured with single images."""

_NO_WAY_BACK_S = 20.0
"""If the first pass takes longer, as with seconds per image, there is no second one."""


class ReopenableEngine:
    """A model file's engine, reopened for each number of threads; only one is open at a time."""

    def __init__(self, opener: Opener, path: Path, rival: Provider | None = None) -> None:
        """Open it on a rival of what works, or on that."""
        self._opener, self._path = opener, path
        self.rival = rival
        self._provider = rival.name if rival else None
        self._engine: Engine | None = None
        self._threads = 0

    def with_threads(self, threads: int) -> Engine:
        """Return the engine with that many intra-op threads, closing one with another number."""
        if self._engine is None or threads != self._threads:
            self.close()
            self._engine = self._opener.open(
                self._path, intra_op_threads=threads, provider=self._provider
            )
            self._threads = threads
            if not self._engine.provider.own_device:
                # "auto" has already tried the devices.
                self._provider = self._engine.provider.name
        return self._engine

    def close(self) -> None:
        """Close the open engine, if there is one."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()


def measure(
    options: Sequence[Parallelism],
    engines: ReopenableEngine,
    image: NDArray[np.uint8],
    *,
    max_batch: int,
) -> list[Trial]:
    """Measure each candidate with `image` (uint8 [H, W, 3]); raises what the engine raises.

    Takes less than a second with a model that needs 10 ms per image, and seconds with 100 ms.
    """
    started = time.perf_counter()
    results: dict[Parallelism, list[_Result]] = {parallelism: [] for parallelism in options}
    sizes = [1, min(_FULL_BATCH, max_batch)]
    for number, parallelism in enumerate([*options, *reversed(options)]):
        if number == len(options) and time.perf_counter() - started > _NO_WAY_BACK_S:
            break
        engine = engines.with_threads(parallelism.intra_op_threads)
        probabilities(engine, [image])  # the first run allocates
        lone_s = _lone_s(engine, image)
        if number == 0 and lone_s * sizes[-1] > _LONGEST_BATCH_S:
            sizes = [1]
        before = results[parallelism]
        tried = [before[0].size] if before else dict.fromkeys(sizes)
        rate, size = max((_rate(engine, image, size, parallelism.runners), size) for size in tried)
        before.append(_Result(lone_s, rate, size))
    return [_trial(parallelism, results[parallelism]) for parallelism in options]


@dataclass(frozen=True, slots=True)
class _Result:
    lone_s: float
    rate: float
    size: int  # the batch size with that rate, the best one


def _trial(parallelism: Parallelism, results: Sequence[_Result]) -> Trial:
    rates = [result.rate for result in results]
    lone_s = min(result.lone_s for result in results)
    return Trial(parallelism, max(rates), lone_s, len(rates) > 1 and is_steady(rates))


def _lone_s(engine: Engine, image: NDArray[np.uint8]) -> float:
    """Return the seconds for a batch of one while nothing else runs."""
    return _undisturbed(_timings(engine, [image], _Together(1)))


def _rate(engine: Engine, image: NDArray[np.uint8], size: int, runners: int) -> float:
    """Return the images per second of `runners` that run batches of `size` at the same time."""
    images = [image] * size
    together = _Together(runners)
    with ThreadPoolExecutor(runners) as threads:
        try:
            runs = [threads.submit(_timings, engine, images, together) for _ in range(runners)]
            timings = [run.result() for run in runs]
        finally:
            together.give_up()  # if a thread could not be started, the others must not wait
    return sum(size / _undisturbed(each) for each in timings)


class _Together:
    """Callers that begin together and continue until each has enough runs."""

    def __init__(self, callers: int) -> None:
        self._begin = threading.Barrier(callers)
        self._lock = threading.Lock()
        self._missing = callers

    def begin(self) -> None:
        """Wait for the others, or until one gives up."""
        with suppress(threading.BrokenBarrierError):
            self._begin.wait()

    def had_enough(self) -> None:
        """Record that this caller has had enough runs."""
        with self._lock:
            self._missing -= 1

    @property
    def over(self) -> bool:
        """Return whether all callers have enough runs."""
        return self._missing <= 0

    def give_up(self) -> None:
        """Stop all callers."""
        with self._lock:
            self._missing = 0
        self._begin.abort()


def _timings(engine: Engine, images: Pixels, together: _Together) -> list[float]:
    """Return the seconds of each run during which all other callers were running too."""
    timings: list[float] = []
    enough = False
    together.begin()
    began = now = time.perf_counter()
    while not together.over:
        started = now
        try:
            probabilities(engine, images)
        except BaseException:
            together.give_up()
            raise
        now = time.perf_counter()
        if not enough or not together.over:
            timings.append(now - started)
        if not enough and _enough(len(timings), now - began):
            enough = True
            together.had_enough()
    return timings


def _enough(runs: int, seconds: float) -> bool:
    long = seconds > _ENOUGH_S and runs >= _ENOUGH_RUNS
    return long or seconds > _TOO_LONG_S or runs >= _MOST_RUNS


def _undisturbed(timings: Sequence[float]) -> float:
    """Return the lower quartile; the fastest run may have had the machine to itself."""
    return sorted(timings)[(len(timings) - 1) // 4]
