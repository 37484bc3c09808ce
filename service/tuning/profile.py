"""How long a model's batches take, before any request: measured, or known from an earlier start."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from service.engine.base import Engine
from service.tuning.cache import FindFacts, ProfileCache
from service.tuning.layout import Positive, is_steady

_RUNS = 3
_NOTHING_S = 0.001


class BatchTimes(BaseModel):
    """The cache's form: the seconds of some batches, by their size."""

    seconds: dict[int, Annotated[list[Positive], Field(min_length=1)]]


class Profile:
    """The times of batches of the sizes that a model is made ready for.

    Each size is timed once in a process, and not at all where the cache has it; later batches keep
    the plans current. Where the median of a size is far from its best, as on a busy machine,
    nothing is kept: a size that is taken for slow is not run, and so would stay so.
    """

    KIND = "batches"

    def __init__(
        self,
        sizes: Sequence[int] = (),
        cache: ProfileCache | None = None,
        find_facts: FindFacts = lambda: None,
    ) -> None:
        self._sizes, self._find_facts = sizes, find_facts
        self._cache = cache or ProfileCache(None)
        self._kept: BatchTimes | None = None
        self._timed: dict[int, list[float]] = {}

    def times(self, engine: Engine, image: NDArray[np.uint8], size: int) -> Sequence[float]:
        """Give the seconds of some batches of a size; none when it was asked for before."""
        if size in self._timed:
            return ()
        if not self._timed:
            kept = self._cache.read(self.KIND, self._find_facts, BatchTimes)
            if kept is not None and set(kept.seconds) == set(self._sizes):
                self._kept = kept
        if self._kept is not None:
            self._timed[size] = self._kept.seconds[size]
        else:
            self._timed[size] = self._time(engine, np.repeat(image[np.newaxis], size, axis=0))
            if set(self._timed) == set(self._sizes) and all(map(_typical, self._timed.values())):
                self._cache.write(self.KIND, self._find_facts, BatchTimes(seconds=self._timed))
        return self._timed[size]

    @staticmethod
    def _time(engine: Engine, images: NDArray[np.uint8]) -> list[float]:
        engine.run(images)  # the first run of a size allocates, and on a GPU chooses kernels
        seconds = []
        for _ in range(_RUNS):
            started = time.perf_counter()
            engine.run(images)
            seconds.append(time.perf_counter() - started)
        return seconds


def _typical(seconds: Sequence[float]) -> bool:
    """Whether the median is near the best; one slow run does no harm, nor does a millisecond."""
    ordered = sorted(seconds)
    best, median = ordered[0], ordered[len(ordered) // 2]
    return is_steady([best, median]) or median - best < _NOTHING_S
