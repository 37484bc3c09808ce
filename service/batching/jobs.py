"""Decoding, and whatever else would hold up the event loop: jobs for the threads of a pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from service.batching.line import Line
from service.batching.runners import Lane, RunnerPool, Urgency
from service.batching.ticket import Priority, half_time
from service.errors import ModelUnavailableError, StoppingError

_NEW = 0.1
"""Weight of the newest time in the mean: it follows a change within some twenty of them."""

T = TypeVar("T")

_log = structlog.get_logger(__name__)


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
        self._pool: RunnerPool | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, pool: RunnerPool) -> None:
        """Let a pool's threads do the jobs; call on the event loop."""
        self._pool, self._loop = pool, asyncio.get_running_loop()
        pool.add(self)

    def submit(
        self,
        work: Callable[[], None],
        future: asyncio.Future[Any],
        deadline: float,
        priority: Priority,
    ) -> None:
        """Queue work that resolves `future` itself; what it raises is set on the future.

        Raises `StoppingError` when the threads have ended.
        """
        pool = self._pool
        if pool is None:
            raise StoppingError("the service is stopping")
        with pool.changed:
            if pool.ended:
                raise ModelUnavailableError("the runners have stopped")
            moves_up_at = half_time(time.perf_counter(), deadline)
            self._jobs.push(_Job(work, future, deadline, priority, moves_up_at))
            pool.wake()

    def call(self, work: Callable[[], T], deadline: float, priority: Priority) -> asyncio.Future[T]:
        """Queue work; the future gives what it returns."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self.submit(lambda: _on_loop(loop, _resolve, future, work()), future, deadline, priority)
        return future

    def predict_s(self, images: int) -> float:
        """Seconds until `images` more would be decoded, by the jobs before them."""
        mean = self._mean_s or 0.0
        return mean * max(1.0, (len(self._jobs) + self.lane.running + images) / self.threads)

    def work_s(self, images: int) -> float:
        """Seconds of work that wait here or are being done, with `images` more, for one thread."""
        return (self._mean_s or 0.0) * (len(self._jobs) + self.lane.running + images)

    def close(self) -> None:
        """Take no more jobs, and fail those that wait."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with pool.changed:
                jobs = self._jobs.drain()
            self._fail(jobs, StoppingError("the service is stopping"))

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
            self._fail(batch, error)
        seconds = time.perf_counter() - started
        mean = seconds if self._mean_s is None else self._mean_s
        self._mean_s = mean + _NEW * (seconds - mean)

    def stopped(self, left: Sequence[_Job]) -> None:
        """Fail the job of a thread that has died, and all if it was the last."""
        if self._pool is not None and self._pool.ended:
            left = [*left, *self._jobs.drain()]
        self._fail(left, ModelUnavailableError("the runners have stopped"))

    def _fail(self, jobs: Sequence[_Job], error: Exception) -> None:
        if jobs and self._loop is not None:
            _on_loop(self._loop, _reject, [job.future for job in jobs], error)


def _on_loop(
    loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object
) -> None:
    try:
        loop.call_soon_threadsafe(call, *arguments)
    except RuntimeError:  # the loop is closed, and with it every waiter is gone
        _log.warning("outcome_without_loop", exc_info=True)


def _resolve(future: asyncio.Future[Any], value: object) -> None:
    if not future.done():
        future.set_result(value)


def _reject(futures: Sequence[asyncio.Future[Any]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
