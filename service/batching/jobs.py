"""Decoding, and whatever else would hold up the event loop: jobs for the threads of a pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from service.batching.hand_over import HandOver
from service.batching.latency import STALE_S
from service.batching.line import Line
from service.batching.runners import Lane, RunnerPool, Urgency
from service.batching.ticket import Priority, half_time
from service.errors import ModelUnavailableError, StoppingError
from service.tracebacks import forget_frames

T = TypeVar("T")

_NEWEST = 0.1
"""Weight of the newest job in the mean: it follows a change within some twenty of them."""


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], None]
    future: asyncio.Future[Any]
    deadline: float
    priority: Priority
    moves_up_at: float


class JobQueue:
    """Jobs, most urgent first, at most `threads` of them at a time. Submit on the event loop.

    Who waits for a thread waits here, and not in a queue without bound: `max_queue` and the bytes
    in flight limit what comes, and the job of a client that has left is dropped.
    """

    latencies = None

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.lane = Lane(threads)
        self._jobs: Line[_Job] = Line()
        self._mean_s: float | None = None
        self._done_at = 0.0
        self._pool: RunnerPool | None = None
        self._waiters: HandOver | None = None

    def start(self, pool: RunnerPool) -> None:
        """Let a pool's threads do the jobs; call on the event loop."""
        self._pool, self._waiters = pool, HandOver(asyncio.get_running_loop())
        pool.add(self)

    def submit(
        self,
        work: Callable[[], None],
        future: asyncio.Future[Any],
        deadline: float,
        priority: Priority,
    ) -> None:
        """Queue work that resolves `future` itself; what it raises is set on the future.

        Raises `StoppingError` once closed, and `ModelUnavailableError` when the threads have died.
        """
        pool = self._pool
        if pool is None:
            raise _stopping()
        with pool.changed:
            if pool.ended:
                raise _ended()
            moves_up_at = half_time(time.perf_counter(), deadline)
            self._jobs.push(_Job(work, future, deadline, priority, moves_up_at))
            pool.wake()
        # What a job holds, as a body of many megabytes, must not wait for its turn to be dropped.
        future.add_done_callback(self._drop)

    def _drop(self, future: asyncio.Future[Any]) -> None:
        if future.cancelled() and (pool := self._pool) is not None:
            with pool.changed:
                self._jobs.remove(future)

    def call(self, work: Callable[[], T], deadline: float, priority: Priority) -> asyncio.Future[T]:
        """Queue work; the future gives what it returns."""
        waiters = self._waiters
        if waiters is None:
            raise _stopping()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.submit(lambda: waiters.resolve([(future, work())]), future, deadline, priority)
        return future

    def predict_s(self, images: int) -> float:
        """Seconds until `images` more would be decoded, by the jobs before them."""
        mean = self._mean_s or 0.0
        return mean * max(1.0, (len(self._jobs) + self.lane.running + images) / self.threads)

    def work_s(self, images: int) -> float:
        """Seconds of work that wait here or are being done, with `images` more, for one thread."""
        return (self._mean_s or 0.0) * (len(self._jobs) + self.lane.running + images)

    @property
    def is_stale(self) -> bool:
        """Whether the last job was so long ago that `forget` is in place.

        If jobs took so long that nobody's deadline allows one, there will be no further ones that
        could tell of better times.
        """
        idle = not self.lane.running and not self._jobs
        return idle and self._mean_s is not None and time.perf_counter() - self._done_at > STALE_S

    def forget(self) -> None:
        """Take jobs for as short as if there had been none."""
        self._mean_s = None

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
                jobs = self._jobs.drain()
            self._fail(jobs, _stopping)

    # What a thread asks for.

    def ready_at(self) -> float | None:
        """Now, if there is a job."""
        now = time.perf_counter()
        while (job := self._jobs.first(now)) is not None:
            if not job.future.cancelled():
                return 0.0
            self._jobs.pop(now)
        return None

    def urgency(self) -> Urgency:
        """Priority and deadline of the first job."""
        return self._jobs.urgency(time.perf_counter())

    def may_wait(self) -> bool:
        """Never: each job is done by itself, and batches come of it."""
        return False

    def take(self, idle: int) -> list[_Job]:  # noqa: ARG002 - a job is for one thread
        """Take the first job that somebody waits for."""
        job = self._jobs.pop(time.perf_counter())
        return [] if job is None or job.future.cancelled() else [job]

    def run(self, batch: list[_Job]) -> None:
        """Do one job."""
        (job,) = batch
        started = time.perf_counter()
        try:
            job.work()
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits must hear of it
            forget_frames(error)
            if self._waiters is not None:
                self._waiters.reject([(job.future, error)])
        self._done_at = time.perf_counter()
        seconds = self._done_at - started
        mean = seconds if self._mean_s is None else self._mean_s
        self._mean_s = mean + _NEWEST * (seconds - mean)

    def stopped(self, left: Sequence[_Job]) -> None:
        """Fail the job of a thread that has died, and all if it was the last."""
        if self._pool is not None and self._pool.ended:
            left = [*left, *self._jobs.drain()]
        self._fail(left, _ended)

    def _fail(self, jobs: Sequence[_Job], error: Callable[[], Exception]) -> None:
        if self._waiters is not None:
            self._waiters.reject([(job.future, error()) for job in jobs])


def _stopping() -> StoppingError:
    return StoppingError("the service is stopping")


def _ended() -> ModelUnavailableError:
    return ModelUnavailableError("the runners have stopped")
