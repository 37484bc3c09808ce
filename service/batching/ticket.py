"""One image that waits for a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from service.batching.completion import Complete, Waiter, complete_futures
from service.contract import PROBABILITIES

ONLY_PROBABILITIES = (PROBABILITIES,)
"""The outputs that nearly every ticket asks for; the same object, so that telling is fast."""


class Priority(IntEnum):
    """Which images run first. Low priority becomes high when half of the image's time is gone."""

    HIGH = 0
    LOW = 1


@dataclass(frozen=True, slots=True)
class TicketResult:
    """A batch's answer for one image, with its timings.

    `outputs` has those that the ticket asked for, without the batch dimension.
    """

    outputs: Mapping[str, NDArray[np.float32]]
    queue_s: float
    infer_s: float
    batch_size: int

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Return the probabilities, [C]."""
        return self.outputs[PROBABILITIES]


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """An image's pixels, the waiter for its result, and how the result is delivered.

    The batcher drops the image once its waiter is cancelled. Times are in `time.perf_counter()`
    seconds.
    """

    pixels: NDArray[np.uint8]  # [H, W, 3]
    waiter: Waiter
    submitted: float
    deadline: float
    priority: Priority = Priority.HIGH
    arrived: float | None = None  # when its image began to wait for decoding, if it did
    tried: bool = False  # run however late it looks: admitted on an idle device despite its plan
    complete: Complete = complete_futures
    outputs: tuple[str, ...] = ONLY_PROBABILITIES
    """The outputs that are wanted; `classifier_weight`, the same for every image, is whole."""

    @property
    def moves_up_at(self) -> float:
        """Return when low priority becomes high: once half of the ticket's time is gone."""
        return half_time(self.submitted if self.arrived is None else self.arrived, self.deadline)


def half_time(since: float, deadline: float) -> float:
    """Return the moment halfway between `since` and the deadline."""
    return since + (deadline - since) / 2


def complete(outcomes: Sequence[tuple[Ticket, TicketResult | Exception]]) -> None:
    """Deliver each ticket's outcome, with one call for neighbours with the same `complete`."""
    if len(outcomes) == 1:
        ((ticket, outcome),) = outcomes
        ticket.complete([(ticket.waiter, outcome)])
        return
    for call, group in groupby(outcomes, key=_complete_of):
        call([(ticket.waiter, outcome) for ticket, outcome in group])


def reject(tickets: Sequence[Ticket], error: Callable[[], Exception]) -> None:
    """Complete each ticket with its own exception."""
    complete([(ticket, error()) for ticket in tickets])


def _complete_of(entry: tuple[Ticket, TicketResult | Exception]) -> Complete:
    return entry[0].complete
