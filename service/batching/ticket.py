"""One image that waits for a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from service.batching.completion import Complete, Waiter, complete_futures


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
    """An image's pixels, who waits for its result, and how that is handed over.

    A waiter that is cancelled is all the batcher needs to drop the work. Times are of
    `time.perf_counter()`.
    """

    pixels: NDArray[np.uint8]  # [H, W, 3]
    waiter: Waiter
    submitted: float
    deadline: float
    priority: Priority = Priority.HIGH
    arrived: float | None = None  # when its image began to wait to be decoded, if it had to
    tried: bool = False  # run however late it looks: it was let in although its plan was too long
    complete: Complete = complete_futures

    @property
    def moves_up_at(self) -> float:
        """When a ticket of low priority becomes one of high priority: at half of its time."""
        return half_time(self.submitted if self.arrived is None else self.arrived, self.deadline)


def half_time(since: float, deadline: float) -> float:
    """When half of the time is gone that there was at `since`."""
    return since + (deadline - since) / 2


def complete(outcomes: Sequence[tuple[Ticket, TicketResult | Exception]]) -> None:
    """Hand each ticket's outcome to its waiter; one call for neighbours that share theirs."""
    for call, group in groupby(outcomes, key=_complete_of):
        call([(ticket.waiter, outcome) for ticket, outcome in group])


def reject(tickets: Sequence[Ticket], error: Callable[[], Exception]) -> None:
    """Complete each ticket with an exception of its own."""
    complete([(ticket, error()) for ticket in tickets])


def _complete_of(entry: tuple[Ticket, TicketResult | Exception]) -> Complete:
    return entry[0].complete
