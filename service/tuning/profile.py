"""How long a model's batches take, before any request: measured, or known from an earlier start."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from service.engine.base import Engine
from service.tuning.cache import Facts, ProfileCache, Seconds

_RUNS = 3


class BatchTimes(BaseModel):
    """The cache's form: the seconds of some batches, by their size."""

    seconds: dict[int, Annotated[list[Seconds], Field(min_length=1)]]


class Profile:
    """The times of batches of the sizes that a model is made ready for.

    Each size is timed once in a process, and not at all where the cache has it; later batches keep
    the plans current. `facts` is called when the first size is asked for; None is no cache.
    """

    KIND = "batches"

    def __init__(
        self,
        sizes: Sequence[int] = (),
        cache: ProfileCache | None = None,
        facts: Callable[[], Facts | None] = lambda: None,
    ) -> None:
        self._sizes, self._cache, self._facts = sizes, cache, facts
        self._key: Facts | None = None
        self._kept: BatchTimes | None = None
        self._timed: dict[int, list[float]] = {}

    def times(self, engine: Engine, image: NDArray[np.uint8], size: int) -> Sequence[float]:
        """Give the seconds of some batches of a size; none when it was asked for before."""
        if size in self._timed:
            return ()
        if not self._timed and self._cache is not None:
            self._key = self._facts()
            self._kept = self._read()
        if self._kept is not None:
            self._timed[size] = self._kept.seconds[size]
        else:
            self._timed[size] = self._time(engine, np.repeat(image[np.newaxis], size, axis=0))
            if self._cache and self._key is not None and set(self._timed) == set(self._sizes):
                self._cache.write(self.KIND, self._key, BatchTimes(seconds=self._timed))
        return self._timed[size]

    def _read(self) -> BatchTimes | None:
        if self._cache is None or self._key is None:
            return None
        kept = self._cache.read(self.KIND, self._key, BatchTimes)
        return kept if kept is not None and set(kept.seconds) == set(self._sizes) else None

    @staticmethod
    def _time(engine: Engine, images: NDArray[np.uint8]) -> list[float]:
        engine.run(images)  # the first run of a size allocates, and on a GPU chooses kernels
        seconds = []
        for _ in range(_RUNS):
            started = time.perf_counter()
            engine.run(images)
            seconds.append(time.perf_counter() - started)
        return seconds
