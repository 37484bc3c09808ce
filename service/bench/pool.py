"""A bounded pool of connections; jobs that find none free wait in order."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar, cast

from service.bench.target import Target
from service.bench.wire import CONNECT_FAILED, TIMEOUT, Answer, Connection

J = TypeVar("J")

_AFTER_FAILED_CONNECT_S = 0.1
_OPENING_S, _MOST_BETWEEN_S = 0.08, 0.005  # to open all connections; most between two of them


class Pool(Generic[J]):
    """Sends jobs over connections.

    `begin` returns a job's request when it is about to be sent, or None if it is too late. `end` is
    called once with the answer to each submitted job, after the connection has been freed.
    """

    def __init__(
        self,
        target: Target,
        connections: int,
        timeout_s: float,
        begin: Callable[[J], bytes | None],
        end: Callable[[J, Answer], None],
    ) -> None:
        self._target, self._most, self._timeout_s = target, connections, timeout_s
        self._begin, self._end = begin, end
        self._idle: list[Connection] = []
        self._waiting: deque[J] = deque()
        self._under_way: dict[Connection, J] = {}
        self._opened: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """Return the number of requests that are sent but not answered."""
        return len(self._under_way)

    @property
    def is_quiet(self) -> bool:
        """Return whether no job is in progress or waiting."""
        return not (self._waiting or self._under_way)

    def submit(self, job: J) -> bool:
        """Send a job or queue it; return whether it was sent at once."""
        if self._idle:
            self._next(self._idle.pop(), job)
            return True
        self._waiting.append(job)
        self._open_more()
        return False

    def time_out(self) -> None:
        """Time out all jobs in progress or waiting."""
        for connection in [*self._under_way]:
            connection.abort(TIMEOUT)
        while self._waiting:
            self._end(self._waiting.popleft(), _failure(TIMEOUT))

    async def open(self, count: int) -> None:
        """Open connections in advance, so that the first requests need not wait for them.

        They are opened one after another: if a server's processes share a listener, the first to
        wake up accepts all that arrive together, and would serve them alone from then on.
        """
        opened = min(count, self._most)
        for _ in range(opened):
            self._open()
            await asyncio.sleep(min(_OPENING_S / opened, _MOST_BETWEEN_S))
        await asyncio.gather(*self._opening)

    async def close(self) -> None:
        """Drop all connections."""
        for opening in self._opening:
            opening.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        connections = [*self._opened]
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(connection.wait_closed() for connection in connections))

    def _open_more(self) -> None:
        if self._waiting and not self._idle and len(self._opened) + len(self._opening) < self._most:
            self._open()

    def _open(self) -> None:
        self._opening.add(asyncio.get_running_loop().create_task(self._connect()))

    async def _connect(self) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            # With a suspended server, connections would wait for minutes.
            async with asyncio.timeout(self._timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(self._done, self._lost),
                    self._target.address,
                    self._target.port,
                )
        except OSError:
            # Don't retry ten thousand times per second if the server is gone.
            await asyncio.sleep(_AFTER_FAILED_CONNECT_S)
            self._opening.discard(task)
            if self._waiting:
                self._end(self._waiting.popleft(), _failure(CONNECT_FAILED))
            self._open_more()
            return
        self._opening.discard(task)
        self._opened.add(connection)
        self._free(connection)

    def _next(self, connection: Connection, job: J) -> bool:
        request = self._begin(job)
        if request is None:
            self._end(job, _failure(TIMEOUT))
            return False
        self._under_way[connection] = job
        connection.send(request, self._timeout_s)
        return True

    def _free(self, connection: Connection) -> None:
        while self._waiting:
            if self._next(connection, self._waiting.popleft()):
                return
        self._idle.append(connection)

    def _done(self, connection: Connection, answer: Answer) -> None:
        job = self._under_way.pop(connection)
        if connection.usable:
            self._free(connection)
        else:
            self._opened.discard(connection)
        try:
            self._end(job, answer)
        finally:  # an error in one job must not keep others waiting
            self._open_more()

    def _lost(self, connection: Connection) -> None:
        """Forget a connection that the server closed while it was idle."""
        self._opened.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)


def _failure(kind: str) -> Answer:
    return Answer(time.perf_counter(), 0, b"", b"", kind)
