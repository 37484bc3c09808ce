"""Dynamic batching: a free thread takes as many waiting images as pay off, without delay.

The batch grows while the threads are busy, so load forms batches and an idle service answers
without waiting. This is the interface for submitters; `batch_source` is the one for the threads,
`decision` decides when a batch is run and how large it is, and `batch_runner` runs it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from service.batching.batch_runner import BatchRunner, Failure
from service.batching.batch_source import BatchSource, stopped, unavailable
from service.batching.decision import BatchLimits
from service.batching.latency import LatencyTable
from service.batching.ticket import Ticket, reject
from service.batching.work_source import ConcurrencyLimit
from service.batching.workers import WorkerPool
from service.engine.base import Engine
from service.metrics import ModelMetrics


class Batcher:
    """One model's queue, run in batches by up to `concurrency` of its device's threads.

    Every ticket is completed exactly once: with a `TicketResult`, an `InferenceError`, a
    `DeadlineExceededError` or a `ModelUnavailableError`. `latencies` determines batch sizes. When
    the engine's session fails or its device is lost, the queue is emptied and accepts nothing until
    `resume`. Thread-safe.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: ModelMetrics,
        pool: WorkerPool,
        *,
        max_batch: int,
        max_delay_s: float = 0.0,
        latencies: LatencyTable | None = None,
        concurrency: ConcurrencyLimit | None = None,
    ) -> None:
        self._pool = pool
        concurrency = concurrency or ConcurrencyLimit(pool.threads)
        latencies = latencies or LatencyTable()
        self._runner = BatchRunner(engine, metrics, latencies, concurrency, self._suspend)
        self._source = BatchSource(
            self._runner.run,
            metrics,
            latencies,
            BatchLimits(max_batch, max_delay_s),
            concurrency,
            lambda: pool.schedule.free_at(concurrency),
        )
        self.on_failure: Callable[[Failure], None] = lambda _: None
        """Called on the thread that met the failure, at most once until `resume`."""
        pool.add(self._source)

    def submit(self, ticket: Ticket, *, wake: bool = True) -> None:
        """Queue a ticket; raises `ModelUnavailableError` if no thread will ever take it.

        A thread of the pool passes `wake=False`: it looks for work itself when its job ends.
        """
        self._pool.submit(self._source, ticket, wake=wake)

    def limit_batches(self, max_batch: int) -> None:
        """Form no batches larger than `max_batch` from now on."""
        self._source.limits.max_batch = max_batch

    def trouble(self, stuck_after_s: float) -> str | None:
        """Describe dead threads or a batch that runs longer than `stuck_after_s`, if any."""
        if dead := self._pool.dead():
            return f"{dead} of {self._pool.threads} runners are dead"
        now = time.perf_counter()
        for run in self._pool.schedule.runs_of(self._source):
            if (busy := now - run.since) > stuck_after_s:
                return f"a runner has been on one batch for {busy:.0f} s"
        return None

    def resume(self, engine: Engine) -> None:
        """Accept tickets again and run them on a new engine."""

        def resume() -> None:
            self._runner.engine = engine
            self._source.failure = None

        self._pool.change(resume)

    def suspend(self, error: Failure) -> None:
        """Fail all waiting tickets and accept nothing until `resume`."""
        reject(self._pool.change(lambda: self._source.fail(error)), lambda: unavailable(error))

    def _suspend(self, engine: Engine, batch: list[Ticket], error: Failure) -> None:
        """Suspend after a batch has met the failure, and report it once."""

        def suspend() -> list[Ticket] | None:
            # Two threads may meet it, the second even after the engine has been replaced.
            first = engine is self._runner.engine and self._source.failure is None
            return self._source.fail(error) if first else None

        waiting = self._pool.change(suspend)
        # First: the model must not be ready any more when a client learns of the failure.
        if waiting is not None:
            self.on_failure(error)
        reject([*batch, *(waiting or ())], lambda: unavailable(error))

    def close(self, timeout_s: float) -> bool:
        """Run what is waiting, then stop; return False if that did not finish in time.

        Tickets that are still waiting then are failed.
        """
        self._pool.change(self._source.close)
        ended = self._pool.remove(self._source, timeout_s)
        reject(self._pool.change(self._source.drain), stopped)
        return ended
