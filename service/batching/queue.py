"""Which waiting tickets make the next batch.

Order: priority, then deadline, then arrival. Not thread-safe: the batcher holds its lock.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import count

from service.batching.latency import LatencyTable
from service.batching.ticket import Priority, Ticket

_Entry = tuple[float, int, Ticket]  # deadline, arrival, ticket


@dataclass
class Taken:
    """The outcome of forming a batch."""

    batch: list[Ticket] = field(default_factory=list)
    late: list[Ticket] = field(default_factory=list)  # can't be answered in time any more
    abandoned: int = 0  # nobody waits for them


class TicketQueue:
    """Waiting tickets of one model."""

    def __init__(self) -> None:
        self._arrivals = count()
        self._high: list[_Entry] = []
        self._low: list[_Entry] = []

    def __len__(self) -> int:
        """Count the tickets, those of clients that have gone included."""
        return len(self._high) + len(self._low)

    def push(self, ticket: Ticket) -> None:
        """Add a ticket."""
        heap = self._high if ticket.priority is Priority.HIGH else self._low
        heapq.heappush(heap, (ticket.deadline, next(self._arrivals), ticket))

    def oldest_submitted(self) -> float:
        """When the longest-waiting ticket was submitted; there must be one."""
        return min(ticket.submitted for _, _, ticket in (*self._high, *self._low))

    def urgency(self, now: float) -> tuple[int, float]:
        """Give priority and deadline of the first in line; there must be one."""
        self._move_up(now)
        heap = self._high or self._low
        return (Priority.HIGH if self._high else Priority.LOW), heap[0][0]

    def take(self, now: float, latencies: LatencyTable, max_batch: int) -> Taken:
        """Take the next batch, at most `max_batch`, as large as the table advises.

        Passed over, and gone from the queue: tickets that nobody waits for, and those whose
        deadline not even a batch of their own would meet.
        """
        self._move_up(now)
        taken = Taken()
        first = self._next_live(now, latencies, taken)
        if first is None:
            return taken
        taken.batch.append(first)
        # In order of priority first, so a later ticket may have the earliest deadline.
        deadline = min([first.deadline, *(heap[0][0] for heap in (self._high, self._low) if heap)])
        size = latencies.best_size(min(len(self) + 1, max_batch), deadline - now)
        while len(taken.batch) < size:
            ticket = self._next_live(now, latencies, taken)
            if ticket is None:
                break
            taken.batch.append(ticket)
        return taken

    def drain(self) -> list[Ticket]:
        """Empty the queue."""
        left = [ticket for _, _, ticket in (*self._high, *self._low)]
        self._high, self._low = [], []
        return left

    def _move_up(self, now: float) -> None:
        """Give tickets of low priority a high one once half of their time is gone."""
        if any(ticket.moves_up_at <= now for _, _, ticket in self._low):
            stay = []
            for entry in self._low:
                if entry[2].moves_up_at <= now:
                    heapq.heappush(self._high, entry)
                else:
                    stay.append(entry)
            heapq.heapify(stay)
            self._low = stay

    def _next_live(self, now: float, latencies: LatencyTable, taken: Taken) -> Ticket | None:
        while heap := self._high or self._low:
            _, _, ticket = heapq.heappop(heap)
            if ticket.future.cancelled():
                taken.abandoned += 1
            elif now + latencies.median_s(1) > ticket.deadline:
                taken.late.append(ticket)
            else:
                return ticket
        return None
