"""Dynamic batching: a free runner takes what is waiting, at once, as many as pay.

The batch grows while the runner is busy, so that load makes batches and an idle service answers
without a wait. Tickets are submitted and answered on the event loop; the runner is a thread, since
the engine holds no lock while it computes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from service.batching.latency import LatencyTable
from service.batching.queue import TicketQueue
from service.batching.ticket import Answer, Ticket
from service.engine.base import Engine
from service.errors import (
    DeadlineExceededError,
    InferenceError,
    ModelUnavailableError,
    RequestError,
)
from service.metrics import ModelMetrics

_log = structlog.get_logger(__name__)


class Batcher:
    """Runs one model's tickets in batches, on a thread of its own.

    Construct it on the event loop that will submit. Every ticket's future is resolved exactly
    once: with an `Answer`, an `InferenceError`, a `DeadlineExceededError` or a
    `ModelUnavailableError`. How many run together is planned by `latencies`.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: ModelMetrics,
        *,
        name: str,
        max_batch: int,
        max_delay_s: float = 0.0,
        latencies: LatencyTable | None = None,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._max_batch = max_batch
        self._max_delay_s = max_delay_s
        self._latencies = latencies or LatencyTable()
        self._loop = asyncio.get_running_loop()
        self._waiting = TicketQueue()
        self._changed = threading.Condition()
        self._closing = False  # the owner asked for the end
        self._ended = False  # the runner will take no more, for whatever reason
        self._running: Sequence[Ticket] = ()
        self._running_since: float | None = None
        self._runner = threading.Thread(target=self._run, name=f"runner-{name}", daemon=True)
        self._runner.start()

    def submit(self, ticket: Ticket) -> None:
        """Queue a ticket; raises `ModelUnavailableError` if no runner will ever take it."""
        with self._changed:
            if self._closing or self._ended:
                raise ModelUnavailableError("the model's runner has stopped")
            self._waiting.push(ticket)
            self._changed.notify()

    def trouble(self, stuck_after_s: float) -> str | None:
        """Say what is wrong with the runner: dead, or a batch that runs longer than that."""
        if self._ended:
            return None if self._closing else "runner is dead"
        since = self._running_since
        if since is not None and (busy := time.perf_counter() - since) > stuck_after_s:
            return f"runner has been on one batch for {busy:.0f} s"
        return None

    def running(self) -> tuple[int, float]:
        """Give the size of the batch that runs now, and the seconds since it began."""
        batch, since = self._running, self._running_since
        return (len(batch), time.perf_counter() - since) if since is not None else (0, 0.0)

    def close(self, timeout_s: float) -> bool:
        """Run what is waiting, then stop; False if the runner did not end in time."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._runner.join(timeout_s)
        return not self._runner.is_alive()

    # The runner's thread.

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._run_batch(batch)
        finally:
            # Also when the runner dies of a defect: nobody may wait for a thread that is gone.
            with self._changed:
                self._ended = True
                left = [*self._running, *self._waiting.drain()]
            self._fail(left, lambda: ModelUnavailableError("the model's runner has stopped"))

    def _next_batch(self) -> list[Ticket]:
        """Wait for work; an empty list means that the batcher is closed and drained."""
        with self._changed:
            while True:
                while not self._waiting and not self._closing:
                    self._changed.wait()
                self._fill_up()
                batch = self._take()
                if batch or (self._closing and not self._waiting):
                    return batch

    def _fill_up(self) -> None:
        """Let an incomplete batch wait for more, if `max_delay_s` says so."""
        if not self._max_delay_s:
            return
        while self._waiting and len(self._waiting) < self._max_batch and not self._closing:
            left = self._waiting.oldest_submitted() + self._max_delay_s - time.perf_counter()
            if left <= 0:
                return
            self._changed.wait(left)

    def _take(self) -> list[Ticket]:
        """Take the next batch; who has gone or can't be answered in time costs no inference."""
        taken = self._waiting.take(time.perf_counter(), self._latencies, self._max_batch)
        if taken.abandoned:
            self._metrics.abandoned.inc(taken.abandoned)
        self._fail(taken.late, _late)
        return taken.batch

    def _run_batch(self, batch: list[Ticket]) -> None:
        started = time.perf_counter()
        self._running, self._running_since = batch, started
        try:
            probabilities = self._infer(batch)
        except Exception as error:  # noqa: BLE001 - whatever it is, the waiters must hear of it
            self._metrics.inference_failures.inc()
            self._retry_singly(batch, error)
        else:
            self._answer(batch, probabilities, started)
        self._running, self._running_since = (), None

    def _retry_singly(self, batch: list[Ticket], error: Exception) -> None:
        """Run a failed batch's images one by one, once, so that one bad image fails alone.

        Not on a GPU: after an error the device may be lost, and each further run makes it worse.
        """
        if len(batch) == 1 or self._engine.provider != "cpu":
            self._fail(batch, lambda: _inference_error(error))
            return
        for ticket in batch:
            started = time.perf_counter()
            try:
                probabilities = self._infer([ticket])
            except Exception as again:  # noqa: BLE001 - as for the batch
                self._reject_one(ticket, again)
            else:
                self._answer([ticket], probabilities, started)

    def _reject_one(self, ticket: Ticket, error: Exception) -> None:
        self._fail([ticket], lambda: _inference_error(error))

    def _infer(self, batch: list[Ticket]) -> NDArray[np.float32]:
        probabilities = self._engine.run(np.stack([ticket.pixels for ticket in batch]))
        if len(probabilities) != len(batch):
            raise ValueError(f"{len(probabilities)} answers for {len(batch)} images")
        return probabilities

    def _answer(
        self, batch: list[Ticket], probabilities: NDArray[np.float32], started: float
    ) -> None:
        infer_s = time.perf_counter() - started
        self._latencies.observe(len(batch), infer_s)
        self._metrics.batch_size.observe(len(batch))
        self._metrics.inference_seconds.observe(infer_s)
        answers = []
        for ticket, row in zip(batch, probabilities, strict=True):
            queue_s = started - ticket.submitted
            self._metrics.queue_seconds.observe(queue_s)
            answers.append((ticket.future, Answer(row, queue_s, infer_s, len(batch))))
        # One hand-over to the event loop for the whole batch: it costs more than the answers do.
        self._on_loop(_resolve, answers)

    def _fail(self, tickets: Sequence[Ticket], error: Callable[[], RequestError]) -> None:
        """Give each waiter an error of its own; a shared one would collect tracebacks."""
        if tickets:
            self._on_loop(_reject, [(ticket.future, error()) for ticket in tickets])

    def _on_loop(self, call: Callable[[Any], None], argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, argument)
        except RuntimeError:
            # The loop is closed, and with it every waiter is gone.
            _log.warning("answers_without_loop", exc_info=True)


def _resolve(answers: list[tuple[asyncio.Future[Answer], Answer]]) -> None:
    for future, answer in answers:
        if not future.done():
            future.set_result(answer)


def _reject(errors: list[tuple[asyncio.Future[Answer], RequestError]]) -> None:
    for future, error in errors:
        if not future.done():
            future.set_exception(error)


def _late() -> DeadlineExceededError:
    return DeadlineExceededError("the image waited so long that its deadline can't be met any more")


def _inference_error(cause: Exception) -> InferenceError:
    error = InferenceError("the model failed on this image's batch; the cause is in the log")
    error.__cause__ = cause
    return error
