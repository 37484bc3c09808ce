"""Decoding, and whatever else would hold up the event loop: jobs for the threads of a pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from service.batching.completion import complete_futures
from service.batching.costs import UNKNOWN_WORK, JobCosts, Work
from service.batching.demand import Rank
from service.batching.job_source import Job, JobSource, reject_jobs
from service.batching.schedule import Run
from service.batching.ticket import Priority, half_time
from service.batching.workers import WorkerPool
from service.errors import StoppingError

T = TypeVar("T")


class DecodePool:
    """Jobs, most urgent first, at most `threads` of them at a time. Submit on the event loop.

    Who waits for a thread waits here, and not in a queue without bound: `max_queue` and the bytes
    in flight limit what comes, and the job of a client that has left is dropped. This is the face
    for those who submit and plan; `JobSource` is the one for the threads.
    """

    def __init__(self, threads: int, waited_s: Callable[[], float] = lambda: 0.0) -> None:
        """Prepare for so many threads; `waited_s` tells how long the calling one waited in jobs."""
        self.threads = threads
        self._costs = JobCosts()
        self._source = JobSource(threads, self._costs, waited_s)
        self._pool: WorkerPool | None = None

    def start(self, pool: WorkerPool) -> None:
        """Let a pool's threads do the jobs."""
        self._pool = pool
        pool.add(self._source)

    def submit(
        self,
        call: Callable[[], None],
        future: asyncio.Future[Any],
        deadline: float,
        priority: Priority,
        work: Work = UNKNOWN_WORK,
    ) -> None:
        """Queue a call that resolves `future` itself; what it raises is set on the future.

        By `work`, what is known of it, is predicted how long it takes. Raises `StoppingError` once
        closed, and `ModelUnavailableError` when the threads have died.
        """
        pool = self._pool
        if pool is None:
            raise _stopping()
        moves_up_at = half_time(time.perf_counter(), deadline)
        seconds = self._costs.expect_s(work)
        job = Job(call, future, deadline, priority, moves_up_at, work, seconds)
        pool.submit(self._source, job)
        # What a job holds, as a body of many megabytes, must not wait for its turn to be dropped.
        future.add_done_callback(self._drop)

    def _drop(self, future: asyncio.Future[Any]) -> None:
        if future.cancelled() and (pool := self._pool) is not None:
            pool.change(lambda: self._source.remove(future))

    def call(
        self, call: Callable[[], T], deadline: float, priority: Priority, work: Work = UNKNOWN_WORK
    ) -> asyncio.Future[T]:
        """Queue a call; the future gives what it returns."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.submit(lambda: complete_futures([(future, call())]), future, deadline, priority, work)
        return future

    # What plans ask for.

    @property
    def is_idle(self) -> bool:
        """Return whether no job waits or is being done."""
        return not self._source and not self._under_way()

    def expect_s(self, work: Work) -> float:
        """Predict how long a job takes a thread."""
        return self._costs.expect_s(work)

    def rests_s(self) -> list[float]:
        """Predict how long each job that is being done still takes.

        One that has taken longer than expected is taken to need as long again.
        """
        now = time.perf_counter()
        rests = []
        for run in self._under_way():
            took_s, expected_s = now - run.since, run.batch[0].expected_s
            rests.append(expected_s - took_s if took_s < expected_s else took_s)
        return rests

    def before_s(self, rank: Rank, until: float) -> float:
        """Seconds of work that wait, for one thread, and are done before somebody of that rank."""
        return self._source.demand.before(rank, until)

    def longest_s(self, first: float, last: float) -> float:
        """Predict the longest job of high priority that waits and is due from `first` to `last`."""
        return self._source.demand.largest(first, last)

    def _under_way(self) -> list[Run]:
        """List what is being done; not what is done, though its thread has not gone on yet."""
        return [run for run in self._runs() if not _has_value(run.batch[0].waiter)]

    def _runs(self) -> list[Run]:
        return self._pool.schedule.runs_of(self._source) if self._pool is not None else []

    def trouble(self, stuck_after_s: float) -> str | None:
        """Say so if a job takes longer than that: its thread is lost for others."""
        since = min((run.since for run in self._runs()), default=None)
        busy_s = 0.0 if since is None else time.perf_counter() - since
        return (
            f"a thread has been on one job for {busy_s:.0f} s" if busy_s > stuck_after_s else None
        )

    def close(self) -> None:
        """Take no more jobs, and fail those that wait."""
        pool, self._pool = self._pool, None
        if pool is not None:
            reject_jobs(pool.change(self._source.drain), _stopping)


def _has_value(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled()


def _stopping() -> StoppingError:
    return StoppingError("the service is stopping")
