"""One image that waits for a batch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Answer:
    """What a batch gave for one image, and how it went."""

    probabilities: NDArray[np.float32]  # [C]
    queue_s: float
    infer_s: float
    batch_size: int


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """An image's pixels, and the future that its waiter holds.

    A waiter that goes away cancels the future; that is all the batcher needs to drop the work.
    """

    pixels: NDArray[np.uint8]  # [H, W, 3]
    future: asyncio.Future[Answer]
    submitted: float  # time.perf_counter()
