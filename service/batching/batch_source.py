"""A model's queue, as the threads of a pool see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from service.batching.batch_runner import Failure
from service.batching.decision import BatchLimits, decide_batch, may_yield
from service.batching.latency import LatencyTable
from service.batching.queue import NOTHING_GONE, Selection, TicketQueue
from service.batching.ticket import Ticket, reject
from service.batching.work_source import ConcurrencyLimit, Offer
from service.errors import DeadlineExceededError, DeviceLostError, ModelUnavailableError
from service.metrics import ModelMetrics

_SWEEP_FROM = 64
"""Waiting tickets from which on abandoned ones are removed before their turn."""


class BatchSource:
    """A `WorkSource` of batches. The pool's lock guards it: see `WorkerPool.change`."""

    def __init__(
        self,
        run: Callable[[list[Ticket]], None],
        metrics: ModelMetrics,
        latencies: LatencyTable,
        limits: BatchLimits,
        concurrency: ConcurrencyLimit,
        busy_until: Callable[[], float],
    ) -> None:
        """Take `busy_until`, which returns when the limit's running batches should end."""
        self.run = run
        self._metrics = metrics
        self.latencies, self.limits, self.concurrency = latencies, limits, concurrency
        self._busy_until = busy_until
        self._waiting = TicketQueue()
        self._sweep_at = _SWEEP_FROM
        self._is_closing = False
        self.failure: Failure | None = None
        """Why no tickets are accepted at present."""

    def push(self, item: Ticket) -> None:
        """Queue a ticket; raises `ModelUnavailableError` once closed and after a failure."""
        if self._is_closing:
            raise stopped()
        if self.failure is not None:
            raise unavailable(self.failure)
        if len(self._waiting) >= self._sweep_at:
            # While a batch hangs, no tickets are taken, but clients keep arriving and leaving.
            self._metrics.abandoned.inc(self._waiting.sweep())
            self._sweep_at = max(_SWEEP_FROM, 2 * len(self._waiting))
        self._waiting.push(item)

    def offer(self, now: float, idle: int) -> Offer | None:
        """Return the next batch, as `decide_batch` decides it."""
        if not self._waiting:
            return None
        gone = self._waiting.drop_gone(now, self.latencies)
        if gone is not NOTHING_GONE:
            self._note_gone(gone)
            if not self._waiting:
                return None
        return decide_batch(
            self._waiting,
            self.latencies,
            self.limits,
            self.concurrency,
            now,
            idle,
            self._busy_until,
        )

    def may_yield(self, for_s: float, now: float) -> bool:
        """Return whether the batch would gain if other work ran for `for_s` seconds first."""
        return may_yield(self._waiting, self.latencies, self.limits, for_s, now)

    def take(self, offer: Offer, now: float) -> list[Ticket]:
        """Take the batch, without images that are abandoned or can't be answered in time."""
        if len(self._waiting) > 1:
            self.latencies.note_choice(is_trial=offer.trial is not None)
        taken = self._waiting.take(now, self.latencies, offer.size)
        self._note_gone(taken)
        return taken.batch

    def drain(self) -> list[Ticket]:
        """Empty the queue and return its tickets."""
        return self._waiting.drain()

    def fail(self, failure: Failure) -> list[Ticket]:
        """Empty the queue, return its tickets, and accept nothing while `failure` is set."""
        # A copy, since the original's traceback holds pixels and the failed session.
        self.failure = type(failure)(str(failure))
        return self.drain()

    def close(self) -> None:
        """Accept nothing more, and let no batch wait for further images."""
        self._is_closing, self.limits.max_delay_s = True, 0.0

    def stopped(self, left: Sequence[Ticket], *, ended: bool) -> None:
        """Fail the batch of a thread that has died and, if it was the last, all that waits."""
        reject([*left, *(self.drain() if ended else ())], stopped)

    def _note_gone(self, taken: Selection) -> None:
        if taken.abandoned:
            self._metrics.abandoned.inc(taken.abandoned)
        if taken.late:
            reject(taken.late, _late)


def stopped() -> ModelUnavailableError:
    """Return the error for a model that accepts nothing any more."""
    return ModelUnavailableError("the model's runner has stopped")


def unavailable(failure: Failure) -> ModelUnavailableError:
    """Return the error for a model whose engine has failed."""
    if isinstance(failure, DeviceLostError):
        return ModelUnavailableError("the model's device was lost; the service has to restart")
    return ModelUnavailableError("the model's session failed; it is being reloaded")


def _late() -> DeadlineExceededError:
    return DeadlineExceededError("the image waited too long for its deadline to be met")
