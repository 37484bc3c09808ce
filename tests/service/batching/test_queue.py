"""Who of those that wait is first, and who is passed over: with a simulated clock."""

from __future__ import annotations

import asyncio

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.batching.latency import LatencyTable
from service.batching.queue import TicketQueue
from service.batching.ticket import Priority, Ticket

PIXELS = np.zeros((1, 1, 3), np.uint8)
HIGH, LOW = Priority.HIGH, Priority.LOW


class Simulation:
    """A queue, its tickets by number, and a loop that is never run (futures need one)."""

    def __init__(self, latencies: LatencyTable | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self.queue = TicketQueue()
        self.latencies = latencies or LatencyTable()
        self.tickets: list[Ticket] = []

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.close()

    def push(
        self, deadline: float, priority: Priority = HIGH, now: float = 0.0, *, tried: bool = False
    ) -> None:
        ticket = Ticket(PIXELS, self.loop.create_future(), now, deadline, priority, tried=tried)
        self.tickets.append(ticket)
        self.queue.push(ticket)

    def cancel(self, number: int) -> None:
        waiter = self.tickets[number].waiter
        assert isinstance(waiter, asyncio.Future)
        waiter.cancel()

    def take(self, now: float = 0.0, size: int = 1) -> list[int]:
        return self.numbers(self.queue.take(now, self.latencies, size).batch)

    def numbers(self, tickets: list[Ticket]) -> list[int]:
        return [self.tickets.index(ticket) for ticket in tickets]

    def order(self, now: float = 0.0) -> list[int]:
        taken = []
        while batch := self.take(now):
            taken += batch
        return taken


def test_priority_comes_first_then_deadline_then_arrival():
    with Simulation() as simulation:
        for deadline, priority in ((9, LOW), (8, HIGH), (7, LOW), (5, HIGH), (5, HIGH), (7, LOW)):
            simulation.push(deadline, priority)
        assert simulation.order() == [3, 4, 1, 2, 5, 0]


def test_low_priority_moves_up_when_half_of_its_time_is_gone():
    """So that a stream of high ones can't starve it."""
    with Simulation() as simulation:
        simulation.push(10, LOW)
        simulation.push(20, HIGH, now=4)
        assert simulation.take(now=4.9) == [1]
        simulation.push(20, HIGH, now=5)
        assert simulation.take(now=5) == [0]


def test_who_can_not_be_answered_in_time_is_passed_over_as_late():
    with Simulation(LatencyTable([(1, 1.0)])) as simulation:
        simulation.push(0.9)
        simulation.push(1.1)
        taken = simulation.queue.take(0.0, simulation.latencies, 8)
        assert simulation.numbers(taken.batch) == [1]
        assert simulation.numbers(taken.late) == [0]


def test_who_is_tried_is_run_however_late_it_looks_but_not_after_its_deadline():
    """It was let in although its plan was too long, since that can be wrong."""
    with Simulation(LatencyTable([(1, 1.0), (2, 1.0)])) as simulation:
        simulation.push(0.2, tried=True)
        simulation.push(9)
        assert simulation.take(now=0.1) == [0]
        simulation.push(0.2, tried=True)
        taken = simulation.queue.take(0.3, simulation.latencies, 8)
        assert (simulation.numbers(taken.batch), simulation.numbers(taken.late)) == ([1], [2])


def test_who_has_gone_is_passed_over_and_counted():
    with Simulation() as simulation:
        for _ in range(3):
            simulation.push(9)
        simulation.cancel(0)
        simulation.cancel(2)
        taken = simulation.queue.take(0.0, simulation.latencies, 8)
        assert (simulation.numbers(taken.batch), taken.abandoned) == ([1], 2)
        assert len(simulation.queue) == 0


tickets = st.tuples(st.floats(0.1, 50), st.sampled_from(Priority), st.booleans())
times = st.lists(st.tuples(st.integers(1, 8), st.floats(0.01, 2)), max_size=8)


@given(st.lists(tickets, max_size=40), times, st.integers(1, 8))
def test_every_ticket_leaves_the_queue_exactly_once(arrivals, measured, size):
    """Whatever the deadlines, priorities, cancellations and times: run, late or abandoned."""
    with Simulation(LatencyTable(measured)) as simulation:
        now, ran, late, abandoned = 0.0, [], [], 0
        for deadline, priority, cancelled in arrivals:
            simulation.push(now + deadline, priority, now)
            if cancelled:
                simulation.cancel(-1)
        while len(simulation.queue):
            before = len(simulation.queue)
            taken = simulation.queue.take(now, simulation.latencies, size)
            assert len(taken.batch) <= size
            assert len(simulation.queue) < before
            for ticket in taken.batch:
                assert now + simulation.latencies.median_s(1) <= ticket.deadline
            ran += taken.batch
            late += taken.late
            abandoned += taken.abandoned
            now += simulation.latencies.median_s(len(taken.batch)) if taken.batch else 0.0
        assert len(ran) + len(late) + abandoned == len(arrivals)
        assert len({id(ticket) for ticket in ran + late}) == len(ran) + len(late)
        assert abandoned == sum(cancelled for _, _, cancelled in arrivals)
        assert not any(ticket.waiter.cancelled() for ticket in ran + late)
