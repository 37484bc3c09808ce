"""One served model: its engine, its gate and its queue."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from service.batching.admission import ImageGate
from service.batching.batcher import Batcher
from service.batching.latency import LatencyTable
from service.batching.plan import DeviceLoad
from service.batching.work_source import ConcurrencyLimit
from service.batching.workers import WorkerPool
from service.calibration import Calibration
from service.contract import Allowed, ModelContract
from service.engine.base import Engine
from service.errors import (
    DeviceLostError,
    NotReadyError,
    SessionFailedError,
)
from service.metrics import ModelMetrics
from service.models.files import ModelFile
from service.models.model_settings import ModelSettings
from service.models.proving import DisagreementError, Prover
from service.models.stamps import Stamp
from service.models.state import State, StateMachine
from service.models.totals import Totals
from service.models.use import Use
from service.settings import Settings
from service.tuning.profile import Profile

_log = structlog.get_logger(__name__)

_RELOAD_FIRST_S, _RELOAD_MOST_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """An opened model file: its contract, its engine, and how to reopen it."""

    file: ModelFile
    engine: Engine
    contract: ModelContract
    calibration: Calibration | None
    reopen: Callable[[], Engine]
    reopen_exactly: Callable[[], Engine]
    """The same, but from then on only in the precision that the file states."""
    profile: Profile
    settings: Settings
    """As they are for this model."""
    options: ModelSettings
    """What is set for this model alone."""
    stamp: Stamp
    """Of the file that was opened."""
    memory: int
    """The estimated bytes that it takes."""
    faster_by: float | None = None
    """Its measured speed relative to the CPU's own provider, if it was preferred to that."""
    why: str = ""
    """What was measured of the providers, or why the preferred one is not used."""


class ServedModel:
    """One loaded model with its queue. It answers requests while `state` is `READY`.

    `max_batch` comes from the settings; if it is not set, on a GPU the warm-up determines it.
    """

    def __init__(self, loaded: LoadedModel, metrics: ModelMetrics, device: DeviceLoad) -> None:
        settings = loaded.settings
        self.name, self.version = loaded.file.name, loaded.file.version
        self.file, self.stamp = loaded.file, loaded.stamp
        self.memory = loaded.memory
        self.options, self.timeout_ms = loaded.options, settings.request_timeout_ms
        self.engine, self.contract = loaded.engine, loaded.contract
        self.calibration = loaded.calibration
        self.metrics = metrics
        self._loaded, self._reopen = loaded, loaded.reopen
        self._shown = False  # by the metrics
        provider = self.engine.provider
        self._latencies = LatencyTable(padded=provider.padded)
        self._prover = Prover(
            self.name,
            self.contract,
            loaded.profile,
            self._latencies,
            loaded.reopen_exactly,
            settings.max_batch or provider.max_batch,
            max_batch_is_free=provider.measures_max_batch and not settings.max_batch,
        )
        self._prover.on_max_batch = self._limit_batches
        self.gate = ImageGate(
            settings.max_queue,
            max_batch=self.max_batch,
            latencies=self._latencies,
            device=device,
            patience_s=self.timeout_ms / 1000,
        )
        self.use = Use()
        """By requests; entered when one has found this model, and left when it is answered."""
        self.machine = StateMachine()
        self.totals = Totals()
        self._batches_before = metrics.batches()
        self.last_used = time.monotonic()
        """When a request last asked for it; the least recently used is evicted first."""
        self.held = False
        """Whether a rollout compares it, so that it must not be evicted."""
        self._settings = settings
        self._batcher: Batcher | None = None
        self._closing = threading.Event()
        self.classifier_weight: NDArray[np.float32] | None = None
        """The classifier's weight [C, D], once an explanation has fetched it from the file."""
        self._failed_at = 0.0  # of time.perf_counter(), while it is reloading
        self.on_device_lost: Callable[[DeviceLostError], None] = self.give_up
        """Called on the thread that detected the loss."""

    @property
    def state(self) -> State:
        """Return the state as shown to clients, for whom a lost model has failed."""
        state = self.machine.status.state
        return State.FAILED if state is State.LOST else state

    @property
    def reason(self) -> str:
        """Return why the model does not answer; empty if it does."""
        return self.machine.status.reason

    @property
    def batches(self) -> int:
        """Return how many batches were run since the model was loaded."""
        return self.metrics.batches() - self._batches_before

    @property
    def max_batch(self) -> int:
        """Return the maximum number of images in a batch."""
        return self._prover.max_batch

    @property
    def broken(self) -> bool:
        """Return whether the model's file failed its golden cases or can't be run."""
        return self.machine.status.state is State.FAILED

    @property
    def computed_in(self) -> str:
        """Return the precision that products are actually computed in."""
        return self.engine.rounds_to or self.contract.precision

    @property
    def agreement(self) -> Allowed | None:
        """Return the agreement of that with the file's own precision; None if they are the same."""
        allowed, rounds_to = self.contract.allowed, self.engine.rounds_to
        return allowed.get(rounds_to) if allowed and rounds_to else None

    @property
    def faster_by(self) -> float | None:
        """Return the measured speed relative to the CPU's own provider; None if not compared."""
        as_loaded = self.engine.rounds_to == self._loaded.engine.rounds_to
        return self._loaded.faster_by if as_loaded else None

    def show_metrics(self) -> None:
        """Make the metrics of this name and version show this model."""
        self._shown = True
        self.metrics.show_info(
            architecture=self.contract.architecture,
            precision=self.contract.precision,
            provider=self.engine.provider.name,
            computed_in=self.computed_in,
        )
        agreement = self.agreement
        self.metrics.agreement.set(agreement.lower_bound if agreement else 1)
        self.metrics.queue_length.set_function(lambda: self.gate.admitted)
        self.metrics.ready.set_function(lambda: self.state is State.READY)
        self.metrics.broken.set_function(lambda: self.broken)

    def hide_from_metrics(self) -> None:
        """Make the metrics of this name and version show that none is loaded, and let go of it."""
        for gauge in (self.metrics.queue_length, self.metrics.ready, self.metrics.broken):
            gauge.set_function(_zero)

    def start(self, pool: WorkerPool, concurrency: ConcurrencyLimit) -> None:
        """Have the pool's threads serve the queue."""
        self._batcher = Batcher(
            self.engine,
            self.metrics,
            pool,
            max_batch=self.max_batch,
            max_delay_s=self._settings.max_delay_ms / 1000,
            latencies=self._latencies,
            concurrency=concurrency,
        )
        self._batcher.on_failure = self._on_failure

    def warm_up(self, stop: threading.Event) -> None:
        """Run the golden cases at each batch size and set the resulting state.

        Blocks until done, or until the current batch size is done once `stop` is set. Does nothing
        for a model that is closed, and ends once it is.
        """
        if self._closing.is_set():
            return
        started = time.perf_counter()
        try:
            engine, worst = self._prover.prove(self.engine, self._reopen, stop)
        except DisagreementError as error:
            self.machine.to(State.FAILED, str(error))
            _log.error("model_disagrees", model=self.name, detail=self.reason)
            return
        except (DeviceLostError, SessionFailedError) as error:
            # A GPU may be short of memory only until another process has released its own.
            self._on_failure(error)
            return
        except Exception as error:  # noqa: BLE001 - a model that can't run must not stop the others
            if self._closing.is_set():
                return  # it failed since its engine is closed
            _log.exception("warm_up_failed", model=self.name, version=self.version)
            if self.machine.to(State.FAILED, f"warm-up failed: {error}"):
                self._reload_later()
            return
        if not self._answer_with(engine, proved=worst is not None):
            return
        _log.info(
            "model_ready",
            model=self.name,
            version=self.version,
            provider=self.engine.provider.name,
            computed_in=self.computed_in,
            **self.engine.attested,
            max_batch=self.max_batch,
            golden_max_diff=worst,
            warm_up_s=round(time.perf_counter() - started, 3),
        )

    def _answer_with(self, engine: Engine, *, proved: bool) -> bool:
        """Answer with an engine from now on; False if it is not proved or the model has ended.

        In that case the engine is closed, unless it is the model's current one.
        """

        def take() -> None:
            self.engine = engine
            if self._shown:
                self.show_metrics()  # it may compute in another precision
            if self._batcher is not None:
                self._batcher.resume(engine)

        # A batch that fails from here on finds the model ready, so it can report the failure.
        if proved and self.machine.to(State.READY, change=take):
            return True
        if engine is not self.engine:
            engine.close()
        return False

    def _limit_batches(self, max_batch: int) -> None:
        self.gate.max_batch = max_batch
        if self._batcher is not None:
            self._batcher.limit_batches(max_batch)

    def _on_failure(self, error: DeviceLostError | SessionFailedError) -> None:
        if isinstance(error, DeviceLostError):
            self.on_device_lost(error)
            return
        self._failed_at = time.perf_counter()
        _log.error("session_failed", model=self.name, version=self.version, detail=str(error))
        if self.machine.to(State.RELOADING, f"its session failed: {error}"):
            self._reload_later()

    def give_up(self, error: DeviceLostError) -> None:
        """Stop answering: the device is lost, and the process is about to exit."""
        self.machine.to(State.LOST, f"the device was lost: {error}")
        if self._batcher is not None:
            self._batcher.suspend(error)

    def _reload_later(self) -> None:
        threading.Thread(target=self._reload, name=f"reload-{self.name}", daemon=True).start()

    def _reload(self) -> None:
        """Reopen the model, with back-off, until it passes its golden cases.

        Stops if the device is lost.
        """
        wait_s, (state, begun_by) = _RELOAD_FIRST_S, self.machine.status
        while not self._closing.wait(wait_s):
            wait_s = min(2 * wait_s, _RELOAD_MOST_S)
            try:
                is_ready = self._swap()
            except DeviceLostError as error:
                self.on_device_lost(error)
                return
            except Exception as error:  # noqa: BLE001 - after any failure, the next try may succeed
                self.machine.to(state, f"{begun_by}; reloading the model failed: {error}")
                _log.error("reload_failed", model=self.name, detail=str(error), next_s=wait_s)
                continue
            if is_ready:
                _log.info("model_reloaded", model=self.name, version=self.version)
            return

    def _swap(self) -> bool:
        """Replace the failed engine with a new one; False, without any engine, when closing.

        The failed one is closed first: there may not be memory for two.
        """
        self.engine.close()
        engine = self._reopen()
        self._latencies.forget()  # a device that is about to fail may be slow
        try:
            engine, worst = self._prover.prove(engine, self._reopen, self._closing)
        except BaseException:
            engine.close()
            raise
        return self._answer_with(engine, proved=worst is not None)

    def latency_ms(self) -> dict[int, float]:
        """Return the median milliseconds per batch, by batch size."""
        return {size: round(median * 1000, 3) for size, median, _ in self._latencies.rows()}

    def batcher(self) -> Batcher:
        """Return the queue to submit to; raises `NotReadyError` while the model does not answer.

        One that is being retired still answers the requests that have found it.
        """
        state, reason = self.machine.status
        answers = state is State.READY or (state is State.RETIRING and self.use)
        if self._batcher is None or not answers:
            raise NotReadyError(f"model {self.name} is not ready: {reason}")
        return self._batcher

    def trouble(self) -> str | None:
        """Describe what only a restart fixes, if anything: dead or stuck runner, failed reload."""
        stuck_after_s = self._settings.stuck_after_s
        state, reason = self.machine.status
        if state is State.RELOADING and time.perf_counter() - self._failed_at > stuck_after_s:
            return reason
        return self._batcher.trouble(stuck_after_s) if self._batcher else None

    async def retire(self, timeout_s: float) -> None:
        """Answer the requests that have found it, then close; call it on their event loop.

        What is not answered within `timeout_s` is failed.
        """
        end = time.monotonic() + timeout_s
        self.machine.to(State.RETIRING, "it is being retired")
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self.use.ended()  # first: images of theirs may have yet to arrive
                    await self.gate.emptied()
        finally:  # also if the caller is cancelled: requests don't find the model any more
            await asyncio.to_thread(self.close, max(0.0, end - time.monotonic()))
            self.gate.leave()

    def close(self, timeout_s: float) -> None:
        """Answer what is queued and close the engine, unless a runner hangs in it."""
        self.machine.to(State.RETIRING, "it is being retired")
        self._closing.set()
        if self._batcher is None or self._batcher.close(timeout_s):
            self.engine.close()
        self.classifier_weight = None  # what was there at the start is never collected
        self.machine.to(State.RETIRED, "it was retired")


def _zero() -> float:
    return 0.0
