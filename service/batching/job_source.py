"""A queue of jobs, as the threads of a pool see it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.batching.completion import complete_futures
from service.batching.costs import JobCosts, Work
from service.batching.demand import Demand
from service.batching.priority_queue import DeadlineQueue
from service.batching.ticket import Priority
from service.batching.work_source import ConcurrencyLimit, Offer
from service.errors import ModelUnavailableError
from service.tracebacks import forget_frames


@dataclass(frozen=True, slots=True)
class Job:
    """A call that completes `waiter` itself; exceptions are set on it."""

    call: Callable[[], None]
    waiter: asyncio.Future[Any]
    deadline: float
    priority: Priority
    moves_up_at: float
    work: Work
    expected_s: float


class JobSource:
    """A `WorkSource` of single jobs. The pool's lock guards it: see `WorkerPool.change`."""

    latencies = None

    def __init__(self, threads: int, costs: JobCosts, waited_s: Callable[[], float]) -> None:
        """Allow `threads` at a time; `waited_s` returns how long the calling one waited in jobs."""
        self.concurrency = ConcurrencyLimit(threads)
        self.demand = Demand()
        """The seconds that the queued jobs are expected to take."""
        self._costs, self._waited_s = costs, waited_s
        self._jobs: DeadlineQueue[Job] = DeadlineQueue()

    def __len__(self) -> int:
        return len(self._jobs)

    def push(self, item: Job) -> None:
        """Queue a job."""
        self._jobs.push(item)
        self.demand.add(item, item.expected_s)

    def remove(self, waiter: asyncio.Future[Any]) -> None:
        """Drop a waiter's job if it is queued."""
        job = self._jobs.remove(waiter)
        if job is not None:
            self.demand.remove(job, job.expected_s)

    def offer(self, now: float, idle: int) -> Offer | None:  # noqa: ARG002 - a job is for one thread
        """Return the first job, to be run at once."""
        while (job := self._jobs.first(now)) is not None:
            if not job.waiter.cancelled():
                return Offer(0.0, self._jobs.sort_key(now), job.expected_s)
            self._pop(now)
        return None

    def may_yield(self, for_s: float, now: float) -> bool:  # noqa: ARG002 - it never does
        """Return False: jobs run singly, and batches are formed from their results."""
        return False

    def take(self, offer: Offer, now: float) -> list[Job]:  # noqa: ARG002 - there is only one
        """Take the first job."""
        job = self._pop(now)
        return [] if job is None or job.waiter.cancelled() else [job]

    def run(self, batch: list[Job]) -> None:
        """Run one job."""
        (job,) = batch
        started = time.perf_counter() - self._waited_s()
        try:
            job.call()
        except Exception as error:  # noqa: BLE001 - the waiter must learn of any failure
            forget_frames(error)
            complete_futures([(job.waiter, error)])
        else:  # a job that was refused halfway says nothing about whole ones
            # Waits are left out: other jobs caused them, not this kind of job.
            self._costs.learn(job.work, time.perf_counter() - self._waited_s() - started)

    def drain(self) -> list[Job]:
        """Empty the queue and return its jobs."""
        self.demand.clear()
        return self._jobs.drain()

    def stopped(self, left: Sequence[Job], *, ended: bool) -> None:
        """Fail the job of a thread that has died and, if it was the last, all jobs."""
        reject_jobs([*left, *(self.drain() if ended else ())], _ended)

    def _pop(self, now: float) -> Job | None:
        job = self._jobs.pop(now)
        if job is not None:
            self.demand.remove(job, job.expected_s)
        return job


def reject_jobs(jobs: Sequence[Job], error: Callable[[], Exception]) -> None:
    """Fail each job's waiter with its own exception."""
    complete_futures([(job.waiter, error()) for job in jobs])


def _ended() -> ModelUnavailableError:
    return ModelUnavailableError("the runners have stopped")
