"""Answers LoadGen's queries by asking a server over HTTP.

LoadGen issues queries from threads of its own; they are sent, and completed, on an asyncio event
loop, over the same connections that `resnet-serve bench` uses. A fixed number of them bounds what
is in flight; queries that find none free wait here, in order, and that wait is in LoadGen's
latencies.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from service.bench.load import OK, Check
from service.bench.target import Target
from service.bench.wire import CONNECT_FAILED, Answer, Connection

RETRY_S = 1.0
"""How long a refused sample waits for its next try: the least that `Retry-After` can say, since it
has whole seconds and the service rounds up."""

_CONNECT_AGAIN_S = 0.1
_UNAVAILABLE = 503


@dataclass(slots=True)
class Query:
    """One sample that LoadGen wants answered: its response id, and which image it is.

    `sent` is of `time.perf_counter()`, of the first try; 0 before it.
    """

    response_id: int
    image: int
    sent: float = 0.0
    retried: bool = False


Complete = Callable[[int, bytes], None]
"""Tells LoadGen that the query of that response id has its answer (empty: it failed)."""


@dataclass(slots=True)
class Counts:
    """What became of the queries."""

    answered: int = 0
    retries: int = 0
    most_in_flight: int = 0
    waited: int = 0
    """Queries that found no connection free."""
    failures: Counter[str] = field(default_factory=Counter)
    wire_s: array[float] = field(default_factory=lambda: array("d"))
    """Seconds from sending to the answer, of each right answer that took one try."""


class QueryClient:
    """A pool of connections that LoadGen's queries go over.

    `issue` may be called from any thread; all else is of the event loop that it was made on.
    """

    def __init__(
        self,
        target: Target,
        requests: Sequence[bytes],
        check: Check,
        complete: Complete,
        *,
        connections: int,
        timeout_s: float,
        retry_refused: bool,
    ) -> None:
        self._target, self._requests, self._check = target, requests, check
        self._complete = complete
        self._most, self._timeout_s, self._retry_refused = connections, timeout_s, retry_refused
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._inbox: list[Query] = []
        self._waiting: deque[Query] = deque()
        self._idle: list[Connection] = []
        self._under_way: dict[Connection, Query] = {}
        self._opened: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self.counts = Counts()

    def issue(self, samples: Sequence[Any]) -> None:
        """Take LoadGen's `QuerySample`s; returns at once."""
        queries = [Query(sample.id, sample.index) for sample in samples]
        with self._lock:
            wake = not self._inbox
            self._inbox += queries
        if wake:  # one call takes all that have come until it runs
            with contextlib.suppress(RuntimeError):  # Ctrl-C has closed the loop
                self._loop.call_soon_threadsafe(self._take_inbox)

    async def open(self) -> None:
        """Open all connections beforehand, so that no query has to wait for one."""
        for _ in range(self._most):
            self._open()
        await asyncio.gather(*self._opening)

    async def close(self) -> None:
        """Drop all connections."""
        await asyncio.gather(*self._opening, return_exceptions=True)
        connections = [*self._opened]
        for connection in connections:
            connection.abort()
        await asyncio.gather(*(connection.wait_closed() for connection in connections))

    # Queries.

    def _take_inbox(self) -> None:
        with self._lock:
            queries, self._inbox = self._inbox, []
        for query in queries:
            self._ask(query)

    def _ask(self, query: Query) -> None:
        if self._idle:
            self._send(self._idle.pop(), query)
            return
        self.counts.waited += 1
        self._waiting.append(query)
        if len(self._opened) + len(self._opening) < self._most:
            self._open()

    def _send(self, connection: Connection, query: Query) -> None:
        query.sent = query.sent or time.perf_counter()
        self._under_way[connection] = query
        self.counts.most_in_flight = max(self.counts.most_in_flight, len(self._under_way))
        connection.send(self._requests[query.image], self._timeout_s)

    def _done(self, connection: Connection, answer: Answer) -> None:
        query = self._under_way.pop(connection)
        self._settle(query, answer)
        if connection.usable:
            self._free(connection)
        else:
            self._opened.discard(connection)
            if self._waiting:
                self._open()

    def _settle(self, query: Query, answer: Answer) -> None:
        took_s = answer.ended - query.sent
        if answer.status == _UNAVAILABLE and self._retry_refused and took_s < self._timeout_s:
            self.counts.retries += 1
            query.retried = True
            self._loop.call_later(RETRY_S, self._ask, query)
            return
        kind = answer.failure or self._check(query.image, answer)
        if kind == OK:
            self.counts.answered += 1
            if not query.retried:
                self.counts.wire_s.append(took_s)
            self._complete(query.response_id, answer.body)
        else:
            self._fail(query, kind)

    def _fail(self, query: Query, kind: str) -> None:
        self.counts.failures[kind] += 1
        self._complete(query.response_id, b"")

    # Connections.

    def _open(self) -> None:
        self._opening.add(self._loop.create_task(self._connect()))

    async def _connect(self) -> None:
        try:
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._done, self._lost), self._target.address, self._target.port
            )
        except OSError:
            # A server that is gone fails the queries, but not ten thousand times a second.
            await asyncio.sleep(_CONNECT_AGAIN_S)
            self._opening.discard(cast("asyncio.Task[None]", asyncio.current_task()))
            if self._waiting:
                self._fail(self._waiting.popleft(), CONNECT_FAILED)
            if self._waiting:
                self._open()
            return
        self._opening.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        self._opened.add(connection)
        self._free(connection)

    def _free(self, connection: Connection) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def _lost(self, connection: Connection) -> None:
        """Forget a connection that the server closed while it was idle."""
        self._opened.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
