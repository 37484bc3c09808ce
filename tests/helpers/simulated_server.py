"""A server without threads and HTTP, on a simulated clock, so that it is deterministic.

The gates, queues, batchers and schedule are the real ones. Only decoding and inference are
simulated: they take the time that the test specifies.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
from clock import Clock
from engines import FakeEngine, answered
from fixed_table import FixedTable

from service.batching.admission import ImageGate
from service.batching.batcher import Batcher
from service.batching.costs import JobCosts, Work
from service.batching.decode_pool import DecodePool
from service.batching.plan import DeviceLoad
from service.batching.schedule import Run
from service.batching.ticket import Priority, Ticket, TicketResult
from service.batching.work_source import ConcurrencyLimit, WorkSource
from service.batching.workers import WorkerPool
from service.engine.base import Outputs, Pixels
from service.errors import DeadlineExceededError, DeadlineUnreachableError, QueueFullError
from service.metrics import Metrics

PIXELS = np.zeros((1, 1, 3), np.uint8)
ROUNDING = 1 + 1e-9
"""How much longer plans are than reality, so that rounding errors make no request late."""


@dataclass(frozen=True)
class Request:
    """Images that arrive together."""

    gap_s: float  # since the previous request
    time_s: float  # until the deadline
    works: tuple[Work, ...]
    model: int = 0
    priority: Priority = Priority.HIGH


@dataclass
class Outcome:
    """The outcome of a request."""

    request: Request
    arrived: float
    was: str = "under way"  # then refused, answered or late
    tried: bool = False
    took_s: float = math.nan


class Engine(FakeEngine):
    """Takes as long as its table says."""

    def __init__(self, clock: Clock, times: Sequence[float]) -> None:
        self._clock, self._times = clock, times

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> Outputs:
        self._clock.now += self._times[len(pixels) - 1]
        return answered(np.zeros((len(pixels), 1), np.float32))


class Unthreaded(WorkerPool):
    """A pool whose threads are simulated."""

    ended = False

    def __init__(self) -> None:
        super().__init__(0)


@dataclass
class Server:
    """Create it on a running event loop, with the simulated clock active."""

    clock: Clock
    tables: list[list[float]]  # per model, the seconds for 1, 2, ... images
    threads: int = 2
    decode_s: Callable[[Work], float] | None = None  # None: as expected
    limit: int = 10**6
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pool, self.jobs = Unthreaded(), DecodePool(self.threads)
        self.jobs.start(self.pool)
        self.device = DeviceLoad(self.threads, self.jobs)
        self.device.decoders, self.device.shares_threads = self.threads, True
        self.device.running = self.pool.schedule.running
        self.gates, self.batchers = [], []
        concurrency, metrics = ConcurrencyLimit(self.threads), Metrics()
        for number, times in enumerate(self.tables):
            planned = FixedTable([seconds * ROUNDING for seconds in times])
            largest = len(times)
            self.gates.append(
                ImageGate(self.limit, max_batch=largest, latencies=planned, device=self.device)
            )
            self.batchers.append(
                Batcher(
                    Engine(self.clock, times),
                    metrics.for_model(f"m{number}", 1),
                    self.pool,
                    max_batch=largest,
                    latencies=planned,
                    concurrency=concurrency,
                )
            )
        self._ends: dict[int, float] = {}  # by thread
        self._deadlines: list[tuple[float, int, asyncio.Task[None]]] = []
        self._order = count()
        self._decode_s: dict[asyncio.Future[TicketResult], float] = {}
        self._first_costs = JobCosts()

    async def serve(self, requests: Sequence[Request]) -> list[Outcome]:
        """Let requests arrive, and run the admitted ones to the end."""
        for request in requests:
            await self._run_until(self.clock.now + request.gap_s)
            await self._arrive(request)
        await self._run_until(math.inf)
        return self.outcomes

    async def _arrive(self, request: Request) -> None:
        outcome = Outcome(request, self.clock.now)
        self.outcomes.append(outcome)
        task = asyncio.create_task(self._answer(request, outcome))
        deadline = self.clock.now + request.time_s
        heapq.heappush(self._deadlines, (deadline, next(self._order), task))
        await self._settle()

    async def _answer(self, request: Request, outcome: Outcome) -> None:
        deadline, gate = self.clock.now + request.time_s, self.gates[request.model]
        try:
            reservation = gate.admit(len(request.works), deadline, request.priority, request.works)
        except (DeadlineUnreachableError, QueueFullError):
            outcome.was = "refused"
            return
        outcome.tried = reservation.is_tried
        futures: list[asyncio.Future[TicketResult]] = []
        with reservation:
            outcome.was = "late"
            for work in request.works:
                future = asyncio.get_running_loop().create_future()
                futures.append(future)
                self._decode_s[future] = self._takes_s(work)
                call = partial(self._decode, future, deadline, request, outcome)
                self.jobs.submit(call, future, deadline, request.priority, work)
            for future in futures:
                future.add_done_callback(lambda _: reservation.image_done())
            try:
                await asyncio.gather(*futures)
            finally:  # like a request that is abandoned
                for future in futures:
                    future.cancel()
            outcome.was, outcome.took_s = "answered", self.clock.now - outcome.arrived
            reservation.answered()

    def _decode(
        self,
        future: asyncio.Future[TicketResult],
        deadline: float,
        request: Request,
        outcome: Outcome,
    ) -> None:
        self.clock.now += self._decode_s.pop(future)
        self.batchers[request.model].submit(
            Ticket(
                PIXELS, future, self.clock.now, deadline, request.priority, outcome.arrived,
                outcome.tried,
            ),
            wake=False,
        )  # fmt: skip

    def _takes_s(self, work: Work) -> float:
        if self.decode_s is not None:
            return self.decode_s(work)
        return self._first_costs.expect_s(work)

    async def _run_until(self, end: float) -> None:
        while True:
            at, thread = min(((at, thread) for thread, at in self._ends.items()), default=(end, -1))
            due = self._deadlines[0][0] if self._deadlines else end
            if min(at, due) >= end:
                break
            if due < at:
                self.clock.now = due
                heapq.heappop(self._deadlines)[2].cancel()
            else:
                self._finish(thread, at)
            await self._settle()
        self.clock.now = max(self.clock.now, end if end < math.inf else 0.0)

    def _finish(self, thread: int, at: float) -> None:
        """Finish what a thread has been doing until now."""
        del self._ends[thread]
        run = self.pool.schedule._runs[thread]
        self.clock.now = run.since
        run.source.run(run.batch)
        self.clock.now = at
        self.pool.schedule.end(thread)

    async def _settle(self) -> None:
        """Deliver all outcomes, and let idle threads start work."""
        for _ in range(4):
            await asyncio.sleep(0)
        for thread in range(self.threads):
            if thread not in self._ends:
                run = self.pool.schedule.begin(thread, self.threads - len(self._ends))
                if isinstance(run, Run):
                    self._ends[thread] = self.clock.now + self._lasts_s(run)
        while self._deadlines and (task := self._deadlines[0][2]).done():
            heapq.heappop(self._deadlines)
            with contextlib.suppress(asyncio.CancelledError, DeadlineExceededError):
                task.result()

    def _lasts_s(self, run: Run) -> float:
        if run.source is self.jobs._source:
            return self._decode_s[run.batch[0].waiter]
        models: list[WorkSource] = [batcher._source for batcher in self.batchers]
        return self.tables[models.index(run.source)][len(run.batch) - 1]


def simulate(
    clock: Clock, requests: Sequence[Request], *args: Any, **options: Any
) -> list[Outcome]:
    """Serve requests with a server with these options."""

    async def main() -> list[Outcome]:
        return await Server(clock, *args, **options).serve(requests)

    return asyncio.run(main())
