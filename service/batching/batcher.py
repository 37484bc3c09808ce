"""Dynamic batching: a free runner takes what is waiting, at once, as many as pay.

The batch grows while the runner is busy, so that load makes batches and an idle service answers
without a wait. Tickets are submitted and answered on the event loop; the runners are threads, since
the engine holds no lock while it computes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence

import structlog

from service.batching.completion import Completions
from service.batching.latency import LatencyTable
from service.batching.queue import Selection, TicketQueue
from service.batching.schedule import ConcurrencyLimit, SortKey
from service.batching.ticket import Ticket, TicketResult
from service.batching.workers import WorkerPool
from service.contract import PROBABILITIES
from service.engine.base import DeviceOutputs, Engine, Outputs
from service.errors import (
    DeadlineExceededError,
    DeviceLostError,
    InferenceError,
    ModelUnavailableError,
    RequestError,
    SessionFailedError,
)
from service.metrics import ModelMetrics
from service.tracebacks import forget_frames

Failure = DeviceLostError | SessionFailedError

_log = structlog.get_logger(__name__)

_UNHURRIED = 4.0
"""Who has less time left than so many batches take, or has waited as long, waits for no fuller one:
others' images may go on being decoded for ever."""

_WAKE_UP_S = 0.05
"""Time before a deadline at which a batch that waits for more is run at the latest, and more where
the model is slow: on a busy machine a thread may wake up late."""

_SLOW, _SLOW_LOG_S = 10.0, 60.0
"""A batch that takes so many times its size's median is counted, and logged at most so often."""

_SWEEP_FROM = 64
"""Tickets that wait, from which on those that nobody waits for are looked for before their turn."""


class Batcher:
    """One model's queue, run in batches by its device's threads, `concurrency` of them at a time.

    Construct it on the event loop that will wait for answers. Every ticket's future is resolved
    exactly once: with a `TicketResult`, an `InferenceError`, a `DeadlineExceededError` or a
    `ModelUnavailableError`. How many run together is planned by `latencies`. When the engine's
    session fails or its device is lost, the queue is emptied and takes nothing until `resume`.
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
        self._engine = engine
        self._metrics = metrics
        self._pool = pool
        self.max_batch = max_batch
        self._max_delay_s = max_delay_s
        self.latencies = latencies or LatencyTable()
        self._waiters = Completions(asyncio.get_running_loop())
        self._waiting = TicketQueue()
        self._sweep_at = _SWEEP_FROM
        self._closing = False
        self._failure: Failure | None = None
        self._slow_logged_at = -math.inf
        self.on_failure: Callable[[Failure], None] = lambda _: None
        """Called on the thread that met it, once until `resume`."""
        self.concurrency = concurrency or ConcurrencyLimit(pool.runners)
        pool.add(self)

    def submit(self, ticket: Ticket, *, wake: bool = True) -> None:
        """Queue a ticket; raises `ModelUnavailableError` if no runner will ever take it.

        A thread of the pool passes `wake=False`: it looks for work itself as its job ends.
        """
        with self._pool.changed:
            if self._closing or self._pool.ended:
                raise _stopped()
            if self._failure is not None:
                raise _unavailable(self._failure)
            if len(self._waiting) >= self._sweep_at:
                # While a batch hangs nobody takes any, and others go on coming and leaving.
                self._metrics.abandoned.inc(self._waiting.sweep())
                self._sweep_at = max(_SWEEP_FROM, 2 * len(self._waiting))
            self._waiting.push(ticket)
            if wake:
                self._pool.wake()

    def trouble(self, stuck_after_s: float) -> str | None:
        """Say what is wrong with the runners: dead, or a batch that runs longer than that."""
        if dead := self._pool.dead():
            return f"{dead} of {self._pool.runners} runners dead"
        now = time.perf_counter()
        for run in self._pool.runs_of(self):
            if (busy := now - run.since) > stuck_after_s:
                return f"runner has been on one batch for {busy:.0f} s"
        return None

    def resume(self, engine: Engine) -> None:
        """Take tickets again, and run them on a new engine."""
        with self._pool.changed:
            self._engine = engine
            self._failure = None

    def close(self, timeout_s: float) -> bool:
        """Run what is waiting, then stop; False if that did not end in time.

        What still waits then is failed.
        """
        with self._pool.changed:
            self._closing = True
        ended = self._pool.remove(self, timeout_s)
        with self._pool.changed:
            left = self._waiting.drain()
        self._fail(left, _stopped)
        return ended

    # What a runner asks for.

    def ready_at(self) -> float | None:
        """Now, unless an incomplete batch is to wait for more, as `max_delay_s` says."""
        if not self._waiting or self._pool.ended:
            return None
        self._note_gone(self._waiting.drop_gone(time.perf_counter(), self.latencies))
        if not self._waiting:
            return None
        at = self._turn_at()
        if not self._max_delay_s or len(self._waiting) >= self.max_batch or self._closing:
            return at
        margin_s = max(_WAKE_UP_S, _UNHURRIED * self.latencies.p95_s(len(self._waiting)))
        last_call = min(
            self._waiting.oldest_submitted() + self._max_delay_s,
            self._waiting.earliest_deadline() - margin_s,
        )
        return max(at, last_call)

    def _turn_at(self) -> float:
        """Now, unless another batch is computed, beside which more may come to join the next.

        A full one is stacked and copied meanwhile. One that isn't would only be smaller for being
        taken early: with 8 clients before a fast GPU, that cost a quarter of the throughput. It
        waits for the end of the other; but not if that takes far longer than planned.
        """
        waiting = len(self._waiting)
        if not (self.concurrency.serial and self.concurrency.running):
            return 0.0
        if waiting >= self.latencies.best_size(self.max_batch, math.inf):
            return 0.0
        return self._pool.free_at(self.concurrency) + self.latencies.median_s(waiting)

    def sort_key(self) -> SortKey:
        """Priority and deadline of the first ticket in line."""
        return self._waiting.sort_key(time.perf_counter())

    def lasts_s(self) -> float:
        """Predict how long the next batch takes."""
        best = self.latencies.best_size(self.max_batch, math.inf)
        return self.latencies.p95_s(min(best, len(self._waiting)))

    def may_wait(self, for_s: float = 0.0) -> bool:
        """Return whether more images would make a batch that pays, and there is time for that.

        Not for what takes `for_s` if that is long: a thread that decodes a huge image is gone.
        """
        best = self.latencies.best_size(self.max_batch, math.inf)
        if len(self._waiting) >= best:
            return False
        now, long_s = time.perf_counter(), _UNHURRIED * self.latencies.p95_s(best)
        waited_s = now - self._waiting.oldest_submitted()
        left_s = self._waiting.sort_key(now)[1] - now
        return waited_s < long_s and for_s <= long_s < left_s - for_s

    def take(self, idle: int) -> list[Ticket]:
        """Take the next batch; who has gone or can't be answered in time costs no inference.

        What waits is shared out among idle runners: two halves side by side are done sooner.
        """
        most = min(self.max_batch, -(-len(self._waiting) // idle))
        taken = self._waiting.take(time.perf_counter(), self.latencies, most)
        self._note_gone(taken)
        return taken.batch

    def _note_gone(self, taken: Selection) -> None:
        if taken.abandoned:
            self._metrics.abandoned.inc(taken.abandoned)
        self._fail(taken.late, _late)

    def stopped(self, left: Sequence[Ticket]) -> None:
        """Fail a batch whose runner has died, and what waits if it was the last."""
        waiting = self._waiting.drain() if self._pool.ended else ()
        self._fail([*left, *waiting], _stopped)

    def run(self, batch: list[Ticket]) -> None:
        """Run a batch and answer its tickets."""
        engine, started = self._engine, time.perf_counter()
        try:
            answers = self._infer(engine, batch)
        except (DeviceLostError, SessionFailedError) as error:
            self._metrics.inference_failures.inc()
            self._suspend(engine, batch, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiters must hear of it
            self._metrics.inference_failures.inc()
            self._retry_singly(engine, batch, error)
        else:
            self._answer(batch, answers, started)

    def suspend(self, error: Failure) -> None:
        """Fail what waits, and take nothing until `resume`."""
        with self._pool.changed:
            self._failure = _without_frames(error)
            waiting = self._waiting.drain()
        self._fail(waiting, lambda: _unavailable(error))

    def _suspend(self, engine: Engine, batch: list[Ticket], error: Failure) -> None:
        with self._pool.changed:
            # Two runners may meet it, the second even when another engine is there already.
            first = engine is self._engine and self._failure is None
            waiting = self._waiting.drain() if first else []
            if first:
                self._failure = _without_frames(error)
        # First: readiness has to be gone when a client hears of it.
        if first:
            self.on_failure(error)
        self._fail([*batch, *waiting], lambda: _unavailable(error))

    def _retry_singly(self, engine: Engine, batch: list[Ticket], error: Exception) -> None:
        """Run a failed batch's images one by one, once, so that one bad image fails alone."""
        if len(batch) == 1:
            self._fail(batch, lambda: _inference_error(error))
            return
        for index, ticket in enumerate(batch):
            started = time.perf_counter()
            try:
                answers = self._infer(engine, [ticket])
            except (DeviceLostError, SessionFailedError) as failure:
                self._suspend(engine, batch[index:], failure)
                return
            except Exception as again:  # noqa: BLE001 - as for the batch
                self._reject_one(ticket, again)
            else:
                self._answer([ticket], answers, started)

    def _reject_one(self, ticket: Ticket, error: Exception) -> None:
        self._fail([ticket], lambda: _inference_error(error))

    def _infer(self, engine: Engine, batch: list[Ticket]) -> Outputs:
        outputs = engine.run([ticket.pixels for ticket in batch], (PROBABILITIES,))
        if len(outputs[PROBABILITIES]) != len(batch):
            raise ValueError(f"{len(outputs[PROBABILITIES])} answers for {len(batch)} images")
        return outputs

    def _answer(self, batch: list[Ticket], outputs: Outputs, started: float) -> None:
        ended, rows = time.perf_counter(), outputs[PROBABILITIES]
        if isinstance(outputs, DeviceOutputs):
            # It may have waited for another one; and this thread, to go on.
            started, ended = outputs.began_at, outputs.ended_at
            self.concurrency.ended_at = max(self.concurrency.ended_at, ended)
        infer_s = ended - started
        size = self.latencies.padded_size(len(batch))
        self._note_slow(size, infer_s)
        self.latencies.observe(size, infer_s)
        self._metrics.batch_size.observe(len(batch))
        self._metrics.inference_seconds.observe(infer_s)
        answers = []
        for ticket, row in zip(batch, rows, strict=True):
            queue_s = started - ticket.submitted
            self._metrics.queue_seconds.observe(queue_s)
            answers.append((ticket.future, TicketResult(row, queue_s, infer_s, len(batch))))
        self._waiters.resolve(answers)

    def _note_slow(self, size: int, infer_s: float) -> None:
        """Count a batch that took far longer than its size does, as where a device plans anew."""
        median_s = self.latencies.median_s(size)
        if not 0 < _SLOW * median_s < infer_s:
            return
        self._metrics.slow_batches.inc()
        now = time.perf_counter()
        if now - self._slow_logged_at >= _SLOW_LOG_S:
            self._slow_logged_at = now
            _log.warning(
                "slow_batch",
                model=self._metrics.name,
                images=size,
                took_ms=round(infer_s * 1000, 3),
                median_ms=round(median_s * 1000, 3),
            )

    def _fail(self, tickets: Sequence[Ticket], error: Callable[[], RequestError]) -> None:
        self._waiters.reject([(ticket.future, error()) for ticket in tickets])


def _stopped() -> ModelUnavailableError:
    return ModelUnavailableError("the model's runner has stopped")


def _without_frames(error: Failure) -> Failure:
    """Copy an error that is kept: its own traceback holds pixels, and the session that failed."""
    return type(error)(str(error))


def _unavailable(failure: Failure) -> ModelUnavailableError:
    if isinstance(failure, DeviceLostError):
        return ModelUnavailableError("the model's device was lost; the service has to start again")
    return ModelUnavailableError("the model's session failed; it is being loaded again")


def _late() -> DeadlineExceededError:
    return DeadlineExceededError("the image waited so long that its deadline can't be met any more")


def _inference_error(cause: Exception) -> InferenceError:
    error = InferenceError("the model failed on this image's batch; the cause is in the log")
    forget_frames(cause)
    error.__cause__ = cause
    return error
