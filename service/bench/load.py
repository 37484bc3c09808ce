"""Sends requests over a bounded pool of connections and records what becomes of each."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np

from service.bench.arrivals import Arrivals
from service.bench.target import Target
from service.bench.timer import PreciseTimer
from service.bench.wire import CONNECT_FAILED, TIMEOUT, Answer, Connection

OK = "ok"

Check = Callable[[int, Answer], str]
"""Judges the answer to the image of that index: `OK` or the kind of error."""

Task = asyncio.Task[None]

_AFTER_FAILED_CONNECT_S = 0.1
_OPENING_S, _MOST_BETWEEN_S = 0.08, 0.005  # all connections, and two of them


class Sample(NamedTuple):
    """One request. Times are seconds of `time.perf_counter`.

    `scheduled` is when it should have been sent, and what latency is measured from: a generator
    that starts its clock when it gets round to sending hides the waits that it causes (coordinated
    omission). `sent` is 0 when it never was. `timing` is the raw Server-Timing header.
    """

    scheduled: float
    sent: float
    ended: float
    kind: str
    status: int
    timing: bytes
    waited: bool
    """Whether it found no free connection."""


class Load:
    """A pool of connections that requests are sent over, each image in turn.

    `arrive` sends at once over an idle connection, or waits for one. `samples` grows as answers
    come.
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
        self._target, self._requests, self._check = target, requests, check
        self._most, self._timeout_s = connections, timeout_s
        self._order: list[int] = np.random.default_rng(seed).permutation(len(requests)).tolist()
        self._next = 0
        self._idle: list[Connection] = []
        self._waiting: deque[float] = deque()
        self._under_way: dict[Connection, tuple[float, float, int, bool]] = {}
        self._opened: set[Connection] = set()
        self._opening: set[Task] = set()
        self._quiet = asyncio.Event()
        self.on_done: Callable[[], None] | None = None
        self.samples: list[Sample] = []

    @property
    def in_flight(self) -> int:
        """Requests that are sent and not answered."""
        return len(self._under_way)

    def arrive(self, scheduled: float) -> None:
        """Send the next image, or have it wait for a connection."""
        if self._idle:
            self._send(self._idle.pop(), scheduled, waited=False)
            return
        self._waiting.append(scheduled)
        if len(self._opened) + len(self._opening) < self._most:
            self._open()

    async def drain(self) -> None:
        """Wait until all is answered; what still waits when the time is over is a timeout."""
        self._quiet.clear()
        if self._waiting or self._under_way:
            try:
                await asyncio.wait_for(self._quiet.wait(), self._timeout_s + 1)
            except TimeoutError:
                for connection in [*self._under_way]:
                    connection.abort(TIMEOUT)
        while self._waiting:
            self._give_up(self._waiting.popleft(), TIMEOUT)

    async def close(self) -> None:
        """Drop all connections."""
        self.on_done = None
        await asyncio.gather(*self._opening, return_exceptions=True)
        connections = [*self._opened]
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(connection.wait_closed() for connection in connections))

    async def open(self, count: int) -> None:
        """Open connections beforehand, so that the first requests need not wait for them.

        One after another: of a server's processes that share a listener, the first to wake up
        takes all that come at once, and would serve them alone for as long as they last.
        """
        opened = min(count, self._most)
        for _ in range(opened):
            self._open()
            await asyncio.sleep(min(_OPENING_S / opened, _MOST_BETWEEN_S))
        await asyncio.gather(*self._opening)

    # Connections.

    def _open(self) -> None:
        self._opening.add(asyncio.get_running_loop().create_task(self._connect()))

    async def _connect(self) -> None:
        task = asyncio.current_task()
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(self._done, self._lost), self._target.address, self._target.port
            )
        except OSError:
            # A server that is gone must not be asked ten thousand times a second.
            await asyncio.sleep(_AFTER_FAILED_CONNECT_S)
            self._opening.discard(cast(Task, task))
            if self._waiting:
                self._give_up(self._waiting.popleft(), CONNECT_FAILED)
                self._went_on()
            return
        self._opening.discard(cast(Task, task))
        self._opened.add(connection)
        self._free(connection)

    def _free(self, connection: Connection) -> None:
        while self._waiting:
            scheduled = self._waiting.popleft()
            if time.perf_counter() - scheduled < self._timeout_s:
                self._send(connection, scheduled, waited=True)
                return
            self._give_up(scheduled, TIMEOUT)
        self._idle.append(connection)

    def _lost(self, connection: Connection) -> None:
        """Forget a connection that the server closed while it was idle."""
        self._opened.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    # Requests.

    def _send(self, connection: Connection, scheduled: float, *, waited: bool) -> None:
        image = self._order[self._next]
        self._next = (self._next + 1) % len(self._order)
        self._under_way[connection] = (scheduled, time.perf_counter(), image, waited)
        connection.send(self._requests[image], self._timeout_s)

    def _done(self, connection: Connection, answer: Answer) -> None:
        scheduled, sent, image, waited = self._under_way.pop(connection)
        kind = answer.failure or self._check(image, answer)
        self.samples.append(
            Sample(scheduled, sent, answer.ended, kind, answer.status, answer.timing, waited)
        )
        if connection.usable:
            self._free(connection)
        else:
            self._opened.discard(connection)
        self._went_on()

    def _give_up(self, scheduled: float, kind: str) -> None:
        self.samples.append(Sample(scheduled, 0.0, time.perf_counter(), kind, 0, b"", True))

    def _went_on(self) -> None:
        if self.on_done is not None:
            self.on_done()
        if self._waiting and not self._idle and len(self._opened) + len(self._opening) < self._most:
            self._open()
        if not self._waiting and not self._under_way:
            self._quiet.set()


async def run_closed(load: Load, clients: int, start: float, end: float) -> None:
    """Keep `clients` requests under way from `start` to `end`, then wait for the last answers."""

    def again() -> None:
        if (now := time.perf_counter()) < end:
            load.arrive(now)

    await load.open(clients)
    await asyncio.sleep(max(start - time.perf_counter(), 0))
    load.on_done = again
    for _ in range(clients):
        again()
    await asyncio.sleep(max(end - time.perf_counter(), 0))
    await load.drain()


async def run_open(load: Load, arrivals: Arrivals, start: float) -> None:
    """Let requests arrive at `start` + `arrivals`, whatever becomes of them."""
    with PreciseTimer() as timer:
        for scheduled in (arrivals + start).tolist():
            await timer.sleep_until(scheduled)
            load.arrive(scheduled)
    await load.drain()
