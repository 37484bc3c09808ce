"""Decoding, and whatever else would hold up the event loop: jobs for the threads of a pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from service.batching.completion import Completions
from service.batching.costs import UNKNOWN_WORK, JobCosts, Work
from service.batching.demand import Demand, Rank
from service.batching.priority_queue import DeadlineQueue
from service.batching.schedule import ConcurrencyLimit, Run, SortKey
from service.batching.ticket import Priority, half_time
from service.batching.workers import WorkerPool
from service.errors import ModelUnavailableError, StoppingError
from service.tracebacks import forget_frames

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job:
    call: Callable[[], None]
    future: asyncio.Future[Any]
    deadline: float
    priority: Priority
    moves_up_at: float
    work: Work
    expected_s: float


class DecodePool:
    """Jobs, most urgent first, at most `threads` of them at a time. Submit on the event loop.

    Who waits for a thread waits here, and not in a queue without bound: `max_queue` and the bytes
    in flight limit what comes, and the job of a client that has left is dropped.
    """

    latencies = None

    def __init__(self, threads: int, waited_s: Callable[[], float] = lambda: 0.0) -> None:
        """Prepare for so many threads; `waited_s` tells how long the calling one waited in jobs."""
        self.threads = threads
        self._waited_s = waited_s
        self.concurrency = ConcurrencyLimit(threads)
        self._jobs: DeadlineQueue[_Job] = DeadlineQueue()
        self._demand = Demand()  # seconds, of those that are in line
        self._costs = JobCosts()
        self._pool: WorkerPool | None = None
        self._waiters: Completions | None = None

    def start(self, pool: WorkerPool) -> None:
        """Let a pool's threads do the jobs; call on the event loop."""
        self._pool, self._waiters = pool, Completions(asyncio.get_running_loop())
        pool.add(self)

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
        with pool.changed:
            if pool.ended:
                raise _ended()
            moves_up_at = half_time(time.perf_counter(), deadline)
            seconds = self._costs.expect_s(work)
            job = _Job(call, future, deadline, priority, moves_up_at, work, seconds)
            self._jobs.push(job)
            self._demand.add(job, seconds)
            pool.wake()
        # What a job holds, as a body of many megabytes, must not wait for its turn to be dropped.
        future.add_done_callback(self._drop)

    def _drop(self, future: asyncio.Future[Any]) -> None:
        if future.cancelled() and (pool := self._pool) is not None:
            with pool.changed:
                job = self._jobs.remove(future)
                if job is not None:
                    self._demand.remove(job, job.expected_s)

    def call(
        self, call: Callable[[], T], deadline: float, priority: Priority, work: Work = UNKNOWN_WORK
    ) -> asyncio.Future[T]:
        """Queue a call; the future gives what it returns."""
        waiters = self._waiters
        if waiters is None:
            raise _stopping()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.submit(lambda: waiters.resolve([(future, call())]), future, deadline, priority, work)
        return future

    # What plans ask for.

    @property
    def is_idle(self) -> bool:
        """Return whether no job waits or is being done."""
        return not self._jobs and not self._under_way()

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
        return self._demand.before(rank, until)

    def longest_s(self, first: float, last: float) -> float:
        """Predict the longest job of high priority that waits and is due from `first` to `last`."""
        return self._demand.largest(first, last)

    def _under_way(self) -> list[Run]:
        """List what is being done; not what is done, though its thread has not gone on yet."""
        runs = self._pool.runs_of(self) if self._pool is not None else []
        return [run for run in runs if not _has_value(run.batch[0].future)]

    def trouble(self, stuck_after_s: float) -> str | None:
        """Say so if a job takes longer than that: its thread is lost for others."""
        pool = self._pool
        since = min((run.since for run in pool.runs_of(self)), default=None) if pool else None
        busy_s = 0.0 if since is None else time.perf_counter() - since
        return (
            f"a thread has been on one job for {busy_s:.0f} s" if busy_s > stuck_after_s else None
        )

    def close(self) -> None:
        """Take no more jobs, and fail those that wait."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with pool.changed:
                jobs = self._drain()
            self._fail(jobs, _stopping)

    # What a thread asks for.

    def ready_at(self) -> float | None:
        """Now, if there is a job."""
        now = time.perf_counter()
        while (job := self._jobs.first(now)) is not None:
            if not job.future.cancelled():
                return 0.0
            self._pop(now)
        return None

    def sort_key(self) -> SortKey:
        """Priority and deadline of the first job."""
        return self._jobs.sort_key(time.perf_counter())

    def lasts_s(self) -> float:
        """Predict how long the first job takes."""
        job = self._jobs.first(time.perf_counter())
        return 0.0 if job is None else job.expected_s

    def may_wait(self, for_s: float = 0.0) -> bool:  # noqa: ARG002 - it never does
        """Never: each job is done by itself, and batches come of it."""
        return False

    def take(self, idle: int) -> list[_Job]:  # noqa: ARG002 - a job is for one thread
        """Take the first job that somebody waits for."""
        job = self._pop(time.perf_counter())
        return [] if job is None or job.future.cancelled() else [job]

    def run(self, batch: list[_Job]) -> None:
        """Do one job."""
        (job,) = batch
        started = time.perf_counter() - self._waited_s()
        try:
            job.call()
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits must hear of it
            forget_frames(error)
            if self._waiters is not None:
                self._waiters.reject([(job.future, error)])
        else:  # what was refused amid the work says nothing of the rest
            # Nor do waits: they come of other jobs, and would be expected of this kind.
            self._costs.learn(job.work, time.perf_counter() - self._waited_s() - started)

    def stopped(self, left: Sequence[_Job]) -> None:
        """Fail the job of a thread that has died, and all if it was the last."""
        if self._pool is not None and self._pool.ended:
            left = [*left, *self._drain()]
        self._fail(left, _ended)

    def _pop(self, now: float) -> _Job | None:
        job = self._jobs.pop(now)
        if job is not None:
            self._demand.remove(job, job.expected_s)
        return job

    def _drain(self) -> list[_Job]:
        self._demand.clear()
        return self._jobs.drain()

    def _fail(self, jobs: Sequence[_Job], error: Callable[[], Exception]) -> None:
        if self._waiters is not None:
            self._waiters.reject([(job.future, error()) for job in jobs])


def _has_value(future: asyncio.Future[Any]) -> bool:
    return future.done() and not future.cancelled()


def _stopping() -> StoppingError:
    return StoppingError("the service is stopping")


def _ended() -> ModelUnavailableError:
    return ModelUnavailableError("the runners have stopped")
