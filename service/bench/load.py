"""Sends requests over a bounded pool of connections and records the outcome of each."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from service.bench.arrivals import Arrivals
from service.bench.pool import Pool
from service.bench.target import Target
from service.bench.timer import PreciseTimer
from service.bench.wire import Answer

OK, CHANGED_LABEL, WRONG_ANSWER = "ok", "changed_label", "wrong_answer"
RIGHT = frozenset({OK, CHANGED_LABEL})
"""Kinds of right answers. The best label may change if others are as probable."""

Check = Callable[[int, Answer], str]
"""Returns the kind of an answer to the image with that index: one of `RIGHT`, or an error."""


class Sample(NamedTuple):
    """One request. Times are in `time.perf_counter` seconds.

    `scheduled` is when it should have been sent, and where latency starts: a generator that starts
    its clock only when it sends hides the waits that it causes (coordinated omission). `sent` is 0
    if it was never sent. `timing` is the raw Server-Timing header.
    """

    scheduled: float
    sent: float
    ended: float
    kind: str
    status: int
    timing: bytes
    waited: bool
    """Whether it found no free connection."""


@dataclass(slots=True)
class _Request:
    scheduled: float
    sent: float = 0.0
    image: int = 0
    waited: bool = True


class Load:
    """Sends requests over a pool of connections, cycling through the images.

    `arrive` sends at once over an idle connection, or queues the request for one. `samples` grows
    as answers arrive.
    """

    def __init__(
        self,
        target: Target,
        requests: Sequence[bytes],
        check: Check,
        *,
        connections: int,
        timeout_s: float,
        seed: int,
    ) -> None:
        self._requests, self._check, self._timeout_s = requests, check, timeout_s
        self._pool: Pool[_Request] = Pool(target, connections, timeout_s, self._begin, self._end)
        order = np.random.default_rng(seed).permutation(len(requests))
        self._order: Iterator[int] = itertools.cycle(order.tolist())
        self._quiet = asyncio.Event()
        self.open = self._pool.open
        self.on_done: Callable[[], None] | None = None
        self.samples: list[Sample] = []

    @property
    def in_flight(self) -> int:
        """Return the number of requests that are sent but not answered."""
        return self._pool.in_flight

    def arrive(self, scheduled: float) -> None:
        """Send the next image, or queue it for a connection."""
        request = _Request(scheduled)
        request.waited = not self._pool.submit(request)

    async def drain(self) -> None:
        """Wait until all requests are answered; what remains after the timeout counts as one."""
        self._quiet.clear()
        if not self._pool.is_quiet:
            try:
                await asyncio.wait_for(self._quiet.wait(), self._timeout_s + 1)
            except TimeoutError:
                self._pool.time_out()

    async def close(self) -> None:
        """Drop all connections."""
        self.on_done = None
        await self._pool.close()

    def _begin(self, request: _Request) -> bytes | None:
        if (now := time.perf_counter()) - request.scheduled >= self._timeout_s:
            return None  # it has waited too long for a connection
        request.sent, request.image = now, next(self._order)
        return self._requests[request.image]

    def _end(self, request: _Request, answer: Answer) -> None:
        kind = answer.failure or self._judge(request.image, answer)
        self.samples.append(
            Sample(
                request.scheduled,
                request.sent,
                answer.ended,
                kind,
                answer.status,
                answer.timing,
                request.waited,
            )
        )
        if self.on_done is not None:
            self.on_done()
        if self._pool.is_quiet:
            self._quiet.set()

    def _judge(self, image: int, answer: Answer) -> str:
        try:
            return self._check(image, answer)
        except Exception:  # noqa: BLE001 - an answer that can't be judged must still be counted
            return WRONG_ANSWER


async def run_closed(load: Load, clients: int, start: float, end: float) -> None:
    """Keep `clients` requests in flight from `start` to `end`, then wait for the last answers.

    Call `load.open` first, before choosing `start`, since it takes a while.
    """

    def again() -> None:
        if (now := time.perf_counter()) < end:
            load.arrive(now)

    await asyncio.sleep(max(start - time.perf_counter(), 0))
    load.on_done = again
    for _ in range(clients):
        again()
    await asyncio.sleep(max(end - time.perf_counter(), 0))
    await load.drain()


async def run_open(load: Load, arrivals: Arrivals, start: float) -> None:
    """Let requests arrive at `start` + `arrivals`, whether or not earlier ones are answered."""
    with PreciseTimer() as timer:
        for scheduled in (arrivals + start).tolist():
            await timer.sleep_until(scheduled)
            load.arrive(scheduled)
    await load.drain()
