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


class TicketQueue(DeadlineQueue[Ticket]):
    """Waiting tickets of one model."""

    def oldest_submitted(self) -> float:
        """Return when the longest-waiting ticket was submitted; there must be one."""
        return min(ticket.submitted for ticket in self)

    def drop_gone(self, now: float, latencies: LatencyTable) -> Selection:
        """Drop leading tickets that are abandoned, or would be late even in a batch of their own.

        Then the models are ordered by images that are really going to be run.
        """
        taken = Selection()
        while (ticket := self.first(now)) is not None:
            if ticket.waiter.cancelled():
                taken.abandoned += 1
            elif now + (0.0 if ticket.tried else latencies.median_s(1)) > ticket.deadline:
                taken.late.append(ticket)
            else:
                break
            self.pop(now)
        return taken

    def take(self, now: float, latencies: LatencyTable, size: int) -> Selection:
        """Take the first `size` tickets, or all if there are fewer.

        On the way, drop tickets that are abandoned, or would be late even in a batch of their own.
        """
        taken = Selection()
        while len(taken.batch) < size:
            gone = self.drop_gone(now, latencies)
            taken.late += gone.late
            taken.abandoned += gone.abandoned
            ticket = self.pop(now)
            if ticket is None:
                break
            taken.batch.append(ticket)
        return taken
