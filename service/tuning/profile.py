"""How long a model's batches take before any request: measured, or cached by an earlier start."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from service.engine.base import Engine, probabilities
from service.tuning.cache import Fingerprint, ProfileCache
from service.tuning.parallelism import Positive, is_steady

_TIMED_ROUNDS = 3
_NOTHING_S = 0.001
_NEARLY_BEST = 0.95


class BatchTimes(BaseModel):
    """The cached form: the seconds of some batches, by batch size."""

    seconds: dict[int, Annotated[list[Positive], Field(min_length=1)]]


class Profile:
    """The times of batches of each size that a model is prepared for.

    They are measured once per process, or not at all if they are cached; live batches keep the
    plans current. If a size's median is far from its best, as on a busy machine, nothing is cached:
    a size that looks slow would not be run, and so would keep looking slow.
    """

    KIND = "batches"

    def __init__(
        self,
        cache: ProfileCache | None = None,
        find_fingerprint: Callable[[Engine], Fingerprint | None] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._cache, self._find_fingerprint = cache or ProfileCache(None), find_fingerprint
        self._clock = clock
        self._known = False

    def measure(
        self, engine: Engine, image: NDArray[np.uint8], sizes: Sequence[int], stop: threading.Event
    ) -> Mapping[int, Sequence[float]] | None:
        """Return the seconds of some batches of each size, or nothing if called before.

        Returns None if `stop` was set meanwhile.
        """
        if self._known:
            return {}
        # Only now, since the engine does not know its graphs before it is ready.
        fingerprint = partial(self._find_fingerprint, engine)
        kept = self._cache.read(self.KIND, fingerprint, BatchTimes)
        if kept is not None and set(kept.seconds) == set(sizes):
            self._known = True
            return kept.seconds
        times = self._time(engine, image, sizes, stop)
        if times is None:
            return None
        self._known = True
        if all(map(_typical, times.values())):
            self._cache.write(self.KIND, fingerprint, BatchTimes(seconds=times))
        return times

    def forget(self) -> None:
        """Have the times measured, or looked up, once more: those known are of another engine."""
        self._known = False

    def _time(
        self, engine: Engine, image: NDArray[np.uint8], sizes: Sequence[int], stop: threading.Event
    ) -> dict[int, list[float]] | None:
        times: dict[int, list[float]] = {size: [] for size in sizes}
        for size, timed in _alternating(sizes):
            if stop.is_set():
                return None
            images = [image] * size
            started = self._clock()
            probabilities(engine, images)
            if timed:
                times[size].append(self._clock() - started)
        return times


def _alternating(sizes: Sequence[int]) -> Iterator[tuple[int, bool]]:
    """Yield the sizes in the order in which they are run, and whether the run is timed.

    No size follows itself, like live batches: an engine that plans for the last size would look
    faster than it ever is. There are two orders, since one size may slow down the next. The first
    round is not timed: it allocates memory and, on a GPU, chooses kernels.
    """
    upwards = list(sizes)
    downwards = [*upwards[-2::-1], upwards[-1]]  # the largest last, since it was just run
    for number in range(1 + _TIMED_ROUNDS):
        for size in downwards if number % 2 else upwards:
            yield size, number > 0


def smallest_nearly_best(times: Mapping[int, Sequence[float]]) -> int:
    """Return the smallest size with at least 0.95 of the best throughput, by the medians."""
    rates = {size: size / statistics.median(seconds) for size, seconds in times.items()}
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= _NEARLY_BEST * best)


def _typical(seconds: Sequence[float]) -> bool:
    """Return whether the median is near the best; one slow run or a millisecond does no harm."""
    ordered = sorted(seconds)
    best, median = ordered[0], ordered[len(ordered) // 2]
    return is_steady([best, median]) or median - best < _NOTHING_S
