"""A model's waiting tickets. Not thread-safe: the pool holds its lock."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.batching.latency import LatencyTable
from service.batching.priority_queue import DeadlineQueue
from service.batching.ticket import Ticket


@dataclass
class Selection:
    """The outcome of forming a batch."""

    batch: list[Ticket] = field(default_factory=list)
    late: list[Ticket] = field(default_factory=list)  # can no longer be answered in time
    abandoned: int = 0  # cancelled by their waiters


NOTHING_GONE = Selection()
"""What is dropped nearly always: nothing. Shared, so never changed."""


class TicketQueue(DeadlineQueue[Ticket]):
    """Waiting tickets of one model."""

    def oldest_submitted(self) -> float:
        """Return when the longest-waiting ticket was submitted; there must be one."""
        return min(ticket.submitted for ticket in self)

    def drop_gone(self, now: float, latencies: LatencyTable) -> Selection:
        """Drop leading tickets that are abandoned, or would be late even in a batch of their own.

        Then the models are ordered by images that are really going to be run.
        """
        gone = NOTHING_GONE
        while (ticket := self.first(now)) is not None:
            cancelled = ticket.waiter.cancelled()
            least_s = 0.0 if ticket.tried else latencies.median_s(1)
            if not cancelled and now + least_s <= ticket.deadline:
                break
            if gone is NOTHING_GONE:
                gone = Selection()
            if cancelled:
                gone.abandoned += 1
            else:
                gone.late.append(ticket)
            self.pop(now)
        return gone

    def take(self, now: float, latencies: LatencyTable, size: int) -> Selection:
        """Take the first `size` tickets, or all if there are fewer.

        On the way, drop tickets that are abandoned, or would be late even in a batch of their own.
        """
        taken = Selection()
        while len(taken.batch) < size:
            gone = self.drop_gone(now, latencies)
            if gone is not NOTHING_GONE:
                taken.late += gone.late
                taken.abandoned += gone.abandoned
            ticket = self.pop(now)
            if ticket is None:
                break
            taken.batch.append(ticket)
        return taken
