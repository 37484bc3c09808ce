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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.bench.load import RIGHT, Check
from service.bench.pool import Pool
from service.bench.target import Target
from service.bench.wire import Answer

RETRY_S = 1.0
"""How long a refused sample waits for its next try: the least that `Retry-After` can say, since it
has whole seconds and the service rounds up."""

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
        self._requests, self._check, self._complete = requests, check, complete
        self._most, self._timeout_s, self._retry_refused = connections, timeout_s, retry_refused
        self._pool: Pool[Query] = Pool(target, connections, timeout_s, self._begin, self._settle)
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._inbox: list[Query] = []
        self.close = self._pool.close
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
        await self._pool.open(self._most)

    # Queries.

    def _take_inbox(self) -> None:
        with self._lock:
            queries, self._inbox = self._inbox, []
        for query in queries:
            self._ask(query)

    def _ask(self, query: Query) -> None:
        self.counts.waited += not self._pool.submit(query)

    def _begin(self, query: Query) -> bytes:
        query.sent = query.sent or time.perf_counter()
        # The pool counts this one only from now on.
        self.counts.most_in_flight = max(self.counts.most_in_flight, self._pool.in_flight + 1)
        return self._requests[query.image]

    def _settle(self, query: Query, answer: Answer) -> None:
        took_s = answer.ended - query.sent
        if answer.status == _UNAVAILABLE and self._retry_refused and took_s < self._timeout_s:
            self.counts.retries += 1
            query.retried = True
            self._loop.call_later(RETRY_S, self._ask, query)
            return
        kind = answer.failure or self._check(query.image, answer)
        if kind in RIGHT:
            self.counts.answered += 1
            if not query.retried:
                self.counts.wire_s.append(took_s)
            self._complete(query.response_id, answer.body)
        else:
            self.counts.failures[kind] += 1
            self._complete(query.response_id, b"")
