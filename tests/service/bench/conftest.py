"""What happens at a certain batch of the server that is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import pytest
from numpy.typing import NDArray

from service.contract import PROBABILITIES
from service.engine.base import Outputs, Pixels
from service.engine.cpu import CpuEngine

Change = Callable[[int, NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Gives a function that has answers changed by another from now on.

    That is called with a batch's number, from 1 on, and its probabilities.
    """

    def arrange(change: Change) -> None:
        run, numbers = CpuEngine.run, count(1)

        def changed(engine: CpuEngine, pixels: Pixels, outputs: Sequence[str]) -> Outputs:
            number = next(numbers)  # now: another thread's batch may come before the end of this
            return {PROBABILITIES: change(number, run(engine, pixels, outputs)[PROBABILITIES])}

        monkeypatch.setattr(CpuEngine, "run", changed)

    return arrange


@pytest.fixture
def at_batch(answering: Callable[[Change], None]) -> Callable[[int, Callable[[], object]], None]:
    """Gives a function that has something done when the server has run so many batches."""

    def arrange(batches: int, do: Callable[[], object]) -> None:
        def change(number: int, answer: NDArray[np.float32]) -> NDArray[np.float32]:
            if number == batches:
                do()
            return answer

        answering(change)

    return arrange
