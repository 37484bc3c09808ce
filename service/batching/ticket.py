"""One image that waits for a batch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Priority(IntEnum):
    """Which images run first. Low ones move up when half of their time is gone."""

    HIGH = 0
    LOW = 1


@dataclass(frozen=True, slots=True)
class TicketResult:
    """What a batch gave for one image, and how it went."""

    probabilities: NDArray[np.float32]  # [C]
    queue_s: float
    infer_s: float
    batch_size: int


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """An image's pixels, and the future that its waiter holds.

    A waiter that goes away cancels the future; that is all the batcher needs to drop the work.
    Times are of `time.perf_counter()`.
    """

    pixels: NDArray[np.uint8]  # [H, W, 3]
    future: asyncio.Future[TicketResult]
    submitted: float
    deadline: float
    priority: Priority = Priority.HIGH
    arrived: float | None = None  # when its image began to wait to be decoded, if it had to
    tried: bool = False  # run however late it looks: it was let in although its plan was too long

    @property
    def moves_up_at(self) -> float:
        """When a ticket of low priority becomes one of high priority: at half of its time."""
        return half_time(self.submitted if self.arrived is None else self.arrived, self.deadline)


def half_time(since: float, deadline: float) -> float:
    """When half of the time is gone that there was at `since`."""
    return since + (deadline - since) / 2
