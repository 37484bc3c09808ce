"""Runs a model's batches on its engine and completes their tickets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from service.batching.latency import LatencyTable
from service.batching.ticket import ONLY_PROBABILITIES, Ticket, TicketResult, complete, reject
from service.batching.work_source import ConcurrencyLimit
from service.contract import CLASSIFIER_WEIGHT
from service.engine.base import DeviceOutputs, Engine, Outputs
from service.errors import DeviceLostError, InferenceError, SessionFailedError
from service.metrics import ModelMetrics
from service.tracebacks import forget_frames

Failure = DeviceLostError | SessionFailedError
"""Errors after which the engine runs no further batch."""

_log = structlog.get_logger(__name__)

_SLOW, _SLOW_LOG_S = 10.0, 60.0
"""A batch this many times slower than its size's median is counted; logged at most this often."""


class BatchRunner:
    """Runs batches on the threads of a pool, several at a time where the limit allows it."""

    def __init__(
        self,
        engine: Engine,
        metrics: ModelMetrics,
        latencies: LatencyTable,
        concurrency: ConcurrencyLimit,
        on_failure: Callable[[Engine, list[Ticket], Failure], None],
    ) -> None:
        """Call `on_failure` with a failed engine and its unanswered tickets."""
        self.engine = engine
        self._metrics, self._latencies, self._concurrency = metrics, latencies, concurrency
        self._on_failure = on_failure
        self._slow_logged_at = -math.inf

    def run(self, batch: list[Ticket]) -> None:
        """Run a batch and complete its tickets."""
        engine, started = self.engine, time.perf_counter()
        try:
            outputs = _infer(engine, batch)
        except (DeviceLostError, SessionFailedError) as error:
            self._metrics.inference_failures.inc()
            self._on_failure(engine, batch, error)
        except Exception as error:  # noqa: BLE001 - waiters must learn of any failure
            self._metrics.inference_failures.inc()
            self._retry_singly(engine, batch, error)
        else:
            self._answer(batch, outputs, started)

    def _retry_singly(self, engine: Engine, batch: list[Ticket], error: Exception) -> None:
        """Run a failed batch's images one by one, once, so that one bad image fails alone."""
        if len(batch) == 1:
            reject(batch, lambda: _inference_error(error))
            return
        for index, ticket in enumerate(batch):
            started = time.perf_counter()
            try:
                outputs = _infer(engine, [ticket])
            except (DeviceLostError, SessionFailedError) as failure:
                self._on_failure(engine, batch[index:], failure)
                return
            except Exception as again:  # noqa: BLE001 - as for the batch
                complete([(ticket, _inference_error(again))])
            else:
                self._answer([ticket], outputs, started)

    def _answer(self, batch: list[Ticket], outputs: Outputs, started: float) -> None:
        ended = time.perf_counter()
        if isinstance(outputs, DeviceOutputs):
            # The device may have run another batch first, and this thread may have resumed late.
            started, ended = outputs.began_at, outputs.ended_at
            self._concurrency.ended_at = max(self._concurrency.ended_at, ended)
        infer_s = ended - started
        size = self._latencies.padded_size(len(batch))
        self._note_slow(size, infer_s)
        self._latencies.observe(size, infer_s)
        self._metrics.batch_size.observe(len(batch))
        self._metrics.inference_seconds.observe(infer_s)
        answers = []
        for index, ticket in enumerate(batch):
            queue_s = started - ticket.submitted
            self._metrics.queue_seconds.observe(queue_s)
            given = {name: _of_image(outputs, name, index) for name in ticket.outputs}
            answers.append((ticket, TicketResult(given, queue_s, infer_s, len(batch))))
        complete(answers)

    def _note_slow(self, size: int, infer_s: float) -> None:
        """Count a batch far slower than its size usually is, as when a device plans again."""
        median_s = self._latencies.median_s(size)
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


def _infer(engine: Engine, batch: list[Ticket]) -> Outputs:
    outputs = engine.run([ticket.pixels for ticket in batch], _wanted(batch))
    for name, rows in outputs.items():
        if name != CLASSIFIER_WEIGHT and len(rows) != len(batch):
            raise ValueError(f"{len(rows)} rows of {name} for {len(batch)} images")
    return outputs


def _wanted(batch: Sequence[Ticket]) -> Sequence[str]:
    """Return the outputs that any image of a batch needs."""
    if all(ticket.outputs is ONLY_PROBABILITIES for ticket in batch):
        return ONLY_PROBABILITIES
    return tuple(dict.fromkeys(name for ticket in batch for name in ticket.outputs))


def _of_image(outputs: Outputs, name: str, index: int) -> NDArray[np.float32]:
    """Return an image's part of an output; `classifier_weight` is the same for all."""
    return outputs[name] if name == CLASSIFIER_WEIGHT else outputs[name][index]


def _inference_error(cause: Exception) -> InferenceError:
    error = InferenceError("the model failed on this image's batch; the log has the cause")
    forget_frames(cause)
    error.__cause__ = cause
    return error
