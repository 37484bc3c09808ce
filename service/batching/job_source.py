"""A line of jobs, as the threads of a pool see it."""

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
    """A call that completes `waiter` itself, but for what it raises."""

    call: Callable[[], None]
    waiter: asyncio.Future[Any]
    deadline: float
    priority: Priority
    moves_up_at: float
    work: Work
    expected_s: float


class JobSource:
    """A `WorkSource` of jobs, one at a time. The pool's lock guards it: see `WorkerPool.change`."""

    latencies = None

    def __init__(self, threads: int, costs: JobCosts, waited_s: Callable[[], float]) -> None:
        """Prepare for so many threads; `waited_s` tells how long the calling one waited in jobs."""
        self.concurrency = ConcurrencyLimit(threads)
        self.demand = Demand()
        """The seconds of the jobs that are in line."""
        self._costs, self._waited_s = costs, waited_s
        self._jobs: DeadlineQueue[Job] = DeadlineQueue()

    def __len__(self) -> int:
        return len(self._jobs)

    def push(self, item: Job) -> None:
        """Queue a job."""
        self._jobs.push(item)
        self.demand.add(item, item.expected_s)

    def remove(self, waiter: asyncio.Future[Any]) -> None:
        """Drop the job of a waiter, if it is in line."""
        job = self._jobs.remove(waiter)
        if job is not None:
            self.demand.remove(job, job.expected_s)

    def offer(self, now: float, idle: int) -> Offer | None:  # noqa: ARG002 - a job is for one thread
        """Return the first job, to be done at once."""
        while (job := self._jobs.first(now)) is not None:
            if not job.waiter.cancelled():
                return Offer(0.0, self._jobs.sort_key(now), job.expected_s)
            self._pop(now)
        return None

    def may_yield(self, for_s: float, now: float) -> bool:  # noqa: ARG002 - it never does
        """Never: each job is done by itself, and batches come of it."""
        return False

    def take(self, offer: Offer, now: float) -> list[Job]:  # noqa: ARG002 - there is only one
        """Take the first job."""
        job = self._pop(now)
        return [] if job is None or job.waiter.cancelled() else [job]

    def run(self, batch: list[Job]) -> None:
        """Do one job."""
        (job,) = batch
        started = time.perf_counter() - self._waited_s()
        try:
            job.call()
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits must hear of it
            forget_frames(error)
            complete_futures([(job.waiter, error)])
        else:  # what was refused amid the work says nothing of the rest
            # Nor do waits: they come of other jobs, and would be expected of this kind.
            self._costs.learn(job.work, time.perf_counter() - self._waited_s() - started)

    def drain(self) -> list[Job]:
        """Empty the line."""
        self.demand.clear()
        return self._jobs.drain()

    def stopped(self, left: Sequence[Job], *, ended: bool) -> None:
        """Fail the job of a thread that has died, and all if it was the last."""
        reject_jobs([*left, *(self.drain() if ended else ())], _ended)

    def _pop(self, now: float) -> Job | None:
        job = self._jobs.pop(now)
        if job is not None:
            self.demand.remove(job, job.expected_s)
        return job


def reject_jobs(jobs: Sequence[Job], error: Callable[[], Exception]) -> None:
    """Fail each job's waiter with an exception of its own."""
    complete_futures([(job.waiter, error()) for job in jobs])


def _ended() -> ModelUnavailableError:
    return ModelUnavailableError("the runners have stopped")
