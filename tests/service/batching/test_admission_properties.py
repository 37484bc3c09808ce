"""Who is admitted is answered in time: list scheduling on several runners, on a simulated clock.

The engine takes exactly what the table says, and decoding takes no time. Of images of equal
priority that is promised

- exactly where batches don't pay (their time is proportional to their size), on one runner for any
  models, and on several for models of one speed. On several runners, a fast model's image that is
  admitted later and is due earlier can delay a slow model's by more than Graham's bound counted;
- else up to batches smaller than was counted on: one with little time left forces a smaller batch,
  and the last of what waits go in smaller ones where those are nearly as fast.

Images of low priority are passed by later ones of high priority, until they move up; they are
promised nothing, and here have so much time that they never move up and pass the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from clock import Clock, simulated_time
from fixed_table import FixedTable
from hypothesis import given
from hypothesis import strategies as st

from service.batching.admission import ImageGate, Reservation
from service.batching.decision import BatchLimits, decide_batch
from service.batching.latency import LatencyTable
from service.batching.plan import DeviceLoad
from service.batching.queue import TicketQueue
from service.batching.schedule import RunningBatch
from service.batching.ticket import Priority, Ticket
from service.batching.work_source import ConcurrencyLimit
from service.errors import DeadlineUnreachableError

PIXELS = np.zeros((1, 1, 3), np.uint8)
HIGH, LOW = Priority.HIGH, Priority.LOW
ROUNDING = 1 + 1e-9
"""By so much plans are longer than what happens, lest a rounding error make anyone late."""


@dataclass
class Request:
    """Images that arrive together."""

    gap_s: float  # since the request before
    spare_s: float  # until the deadline
    model: int
    images: int
    priority: Priority = HIGH


@dataclass(eq=False)
class Model:
    """A model's queue, table and gate."""

    table: LatencyTable
    gate: ImageGate
    queue: TicketQueue = field(default_factory=TicketQueue)


@dataclass(eq=False)
class Batch:
    """A batch that runs."""

    model: Model
    tickets: list[Ticket]
    end: float


@dataclass(eq=False)
class Place:
    """A request's place in the gate, held until its last image is done."""

    reservation: Reservation
    exits: contextlib.ExitStack

    def one_is_done(self) -> None:
        self.reservation.image_done()
        if not self.reservation.left:
            self.exits.close()


class Simulation:
    """Some runners that take the most urgent batch of any model as soon as they are free."""

    def __init__(self, tables: list[list[float]], runners: int, clock: Clock) -> None:
        self.clock, self.runners = clock, runners
        self.max_batch = len(tables[0])
        self.loop = asyncio.new_event_loop()  # never run; futures need one
        device = DeviceLoad(runners)
        device.running = lambda: [
            RunningBatch(batch.model.gate.latencies, batch.tickets, max(0.0, batch.end - clock.now))
            for batch in self.running
        ]
        self.models: list[Model] = []
        for times in tables:
            table = FixedTable(times)
            planned = FixedTable([seconds * ROUNDING for seconds in times])
            gate = ImageGate(10**6, max_batch=self.max_batch, latencies=planned, device=device)
            self.models.append(Model(table, gate))
        self.running: list[Batch] = []
        self.reservation: dict[int, Place] = {}
        self.admitted: list[Ticket] = []
        self.late: list[Ticket] = []
        self.had_small_batches = False

    def serve(self, requests: list[Request]) -> None:
        """Let requests come and be admitted or refused, and run what was admitted to its end."""
        for request in requests:
            self._run_until(self.clock.now + request.gap_s)
            self._arrive(request)
            self._take()
        self._run_until(math.inf)
        assert not self.reservation, "each image was run or told to be late"

    def _arrive(self, request: Request) -> None:
        model, now = self.models[request.model], self.clock.now
        deadline = now + request.spare_s
        try:
            reservation = model.gate.admit(request.images, deadline, request.priority)
        except DeadlineUnreachableError:
            return
        place = Place(reservation, contextlib.ExitStack())
        place.exits.enter_context(reservation)
        for _ in range(request.images):
            future = self.loop.create_future()
            ticket = Ticket(
                PIXELS, future, now, deadline, request.priority, tried=reservation.is_tried
            )
            model.queue.push(ticket)
            self.reservation[id(ticket)] = place
            self.admitted.append(ticket)

    def _take(self) -> None:
        """Let idle runners take batches, as those of a pool do."""
        while waiting := [model for model in self.models if len(model.queue)]:
            idle = self.runners - len(self.running)
            if not idle:
                return
            now = self.clock.now
            model = min(waiting, key=lambda model: model.queue.sort_key(now))
            # An offer is made for who can still be run.
            gone = model.queue.drop_gone(now, model.table)
            for ticket in gone.late:
                self._done(ticket, late=True)
            if not len(model.queue):
                continue
            share = min(self.max_batch, -(-len(model.queue) // idle))
            counted_on = min(share, model.table.best_size(self.max_batch, math.inf))
            offer = decide_batch(
                model.queue,
                model.table,
                BatchLimits(self.max_batch),
                ConcurrencyLimit(self.runners),
                now,
                idle,
                float,
            )
            taken = model.queue.take(now, model.table, offer.size)
            for ticket in taken.late:
                self._done(ticket, late=True)
            if taken.batch:
                self.had_small_batches |= len(taken.batch) < counted_on
                end = now + model.table.median_s(len(taken.batch))
                self.running.append(Batch(model, taken.batch, end))

    def _run_until(self, end: float) -> None:
        while self.running and (batch := min(self.running, key=lambda batch: batch.end)).end <= end:
            self.clock.now = batch.end
            self.running.remove(batch)
            for ticket in batch.tickets:
                self._done(ticket, late=batch.end > ticket.deadline)
            self._take()
        self.clock.now = max(self.clock.now, end if end < math.inf else 0.0)

    def _done(self, ticket: Ticket, *, late: bool) -> None:
        if late and ticket.priority is HIGH and not ticket.tried:
            self.late.append(ticket)
        self.reservation.pop(id(ticket)).one_is_done()


@contextlib.contextmanager
def device(tables: list[list[float]], runners: int) -> Iterator[Simulation]:
    """A simulated device and time."""
    clock = Clock()
    with simulated_time(clock):
        simulation = Simulation(tables, runners, clock)
        try:
            yield simulation
        finally:
            simulation.loop.close()


def proportional(unit_s: float, max_batch: int) -> list[float]:
    return [unit_s * size for size in range(1, max_batch + 1)]


units = st.floats(0.3, 3)
sizes = st.integers(1, 8)


def requests(models: int, priorities: list[Priority]) -> st.SearchStrategy[list[Request]]:
    one = st.builds(
        Request,
        gap_s=st.one_of(st.just(0.0), st.floats(0, 4)),
        spare_s=st.one_of(st.floats(0.3, 12), st.floats(0.3, 86_400)),
        model=st.integers(0, models - 1),
        images=st.one_of(st.just(1), st.integers(1, 6)),
        priority=st.sampled_from(priorities),
    )
    # Low ones get time for all that can come, and half of it to wait before they move up.
    return st.lists(one, min_size=1, max_size=60).map(
        lambda those: [
            request if request.priority is HIGH else Request(**{**vars(request), "spare_s": 1e6})
            for request in those
        ]
    )


@given(unit_s=units, max_batch=sizes, runners=st.integers(1, 4), those=requests(3, [HIGH, LOW]))
def test_models_of_one_speed_keep_every_promise_on_any_number_of_runners(
    unit_s, max_batch, runners, those
):
    with device([proportional(unit_s, max_batch)] * 3, runners) as simulation:
        simulation.serve(those)
        assert simulation.late == []


@given(speeds=st.lists(units, min_size=3, max_size=3), max_batch=sizes,
       those=requests(3, [HIGH, LOW]))  # fmt: skip
def test_models_of_any_speeds_keep_every_promise_on_one_runner(speeds, max_batch, those):
    with device([proportional(unit_s, max_batch) for unit_s in speeds], 1) as simulation:
        simulation.serve(those)
        assert simulation.late == []


@given(
    times=st.lists(st.floats(0.05, 3), min_size=1, max_size=8).map(lambda s: [*accumulate(s, max)]),
    runners=st.integers(1, 4),
    those=requests(1, [HIGH]),
)
def test_where_batches_pay_only_smaller_ones_than_counted_on_make_late(times, runners, those):
    with device([times], runners) as simulation:
        simulation.serve(those)
        assert simulation.late == [] or simulation.had_small_batches


def test_under_overload_the_admitted_are_answered_and_runners_are_kept_busy():
    """The promise is not kept by refusing everybody: three times too much comes, for 100 s."""
    with device([proportional(1.0, 4)], 3) as simulation:
        simulation.serve([Request(1 / 9, 5.0, 0, 1) for _ in range(900)])
        assert simulation.late == []
        assert len(simulation.admitted) >= 0.9 * 3 * 100
