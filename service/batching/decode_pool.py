"""Runs decoding, and whatever else would block the event loop, as jobs on a pool's threads."""

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
    """Runs jobs, most urgent first, at most `threads` at a time. Submit on the event loop.

    The queue of jobs is bounded by `max_queue` and the bytes in flight, and the job of a client
    that has left is dropped. This is the interface for submitting and planning; `JobSource` is the
    one for the threads.
    """

    def __init__(self, threads: int, waited_s: Callable[[], float] = lambda: 0.0) -> None:
        """Allow `threads` at a time; `waited_s` returns how long the calling one waited in jobs."""
        self.threads = threads
        self._costs = JobCosts()
        self._source = JobSource(threads, self._costs, waited_s)
        self._pool: WorkerPool | None = None

    def start(self, pool: WorkerPool) -> None:
        """Run the jobs on a pool's threads."""
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
        """Queue a call that resolves `future` itself; an exception is set on the future.

        `work`, what is known about the job, serves to predict its duration. Raises `StoppingError`
        once closed, and `ModelUnavailableError` when the threads have died.
        """
        pool = self._pool
        if pool is None:
            raise _stopping()
        moves_up_at = half_time(time.perf_counter(), deadline)
        seconds = self._costs.expect_s(work)
        job = Job(call, future, deadline, priority, moves_up_at, work, seconds)
        pool.submit(self._source, job)
        # A cancelled job may hold a body of many megabytes, so it is dropped before its turn.
        future.add_done_callback(self._drop)

    def _drop(self, future: asyncio.Future[Any]) -> None:
        if future.cancelled() and (pool := self._pool) is not None:
            pool.change(lambda: self._source.remove(future))

    def call(
        self, call: Callable[[], T], deadline: float, priority: Priority, work: Work = UNKNOWN_WORK
    ) -> asyncio.Future[T]:
        """Queue a call and return a future of its result."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.submit(lambda: complete_futures([(future, call())]), future, deadline, priority, work)
        return future

    # For plans.

    @property
    def is_idle(self) -> bool:
        """Return whether no job is waiting or running."""
        return not self._source and not self._under_way()

    def expect_s(self, work: Work) -> float:
        """Predict how many seconds a job takes on one thread."""
        return self._costs.expect_s(work)

    def rests_s(self) -> list[float]:
        """Predict how many more seconds each running job takes.

        One that has taken longer than expected is assumed to need as long again.
        """
        now = time.perf_counter()
        rests = []
        for run in self._under_way():
            took_s, expected_s = now - run.since, run.batch[0].expected_s
            rests.append(expected_s - took_s if took_s < expected_s else took_s)
        return rests

    def before_s(self, rank: Rank, until: float) -> float:
        """Return the seconds of waiting work, on one thread, that go before that rank."""
        return self._source.demand.before(rank, until)

    def longest_s(self, first: float, last: float) -> float:
        """Predict the longest waiting high-priority job due from `first` to `last`, in seconds."""
        return self._source.demand.largest(first, last)

    def _under_way(self) -> list[Run]:
        """List the running jobs, without those that are done but whose thread has not moved on."""
        return [run for run in self._runs() if not _has_value(run.batch[0].waiter)]

    def _runs(self) -> list[Run]:
        return self._pool.schedule.runs_of(self._source) if self._pool is not None else []

    def trouble(self, stuck_after_s: float) -> str | None:
        """Describe a job that takes longer than `stuck_after_s`: its thread is lost to others."""
        since = min((run.since for run in self._runs()), default=None)
        busy_s = 0.0 if since is None else time.perf_counter() - since
        return (
            f"a thread has been on one job for {busy_s:.0f} s" if busy_s > stuck_after_s else None
        )

    def close(self) -> None:
        """Accept no more jobs, and fail those that are waiting."""
        pool, self._pool = self._pool, None
        if pool is not None:
            reject_jobs(pool.change(self._source.drain), _stopping)


def _has_value(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled()


def _stopping() -> StoppingError:
    return StoppingError("the service is stopping")
