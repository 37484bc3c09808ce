"""One model that is served: its engine, its gate and its queue."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from service.batching.admission import ImageGate
from service.batching.batcher import Batcher
from service.batching.latency import LatencyTable
from service.batching.plan import DeviceLoad
from service.batching.work_source import ConcurrencyLimit
from service.batching.workers import WorkerPool
from service.contract import ModelContract
from service.engine.base import Engine
from service.errors import (
    DeviceLostError,
    NotReadyError,
    SessionFailedError,
)
from service.metrics import ModelMetrics
from service.models.files import ModelFile
from service.models.proving import DisagreementError, Prover
from service.models.state import State, StateMachine
from service.settings import Settings
from service.tuning.profile import Profile

_log = structlog.get_logger(__name__)

_RELOAD_FIRST_S, _RELOAD_MOST_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model file that was opened: what it is, what runs it, and how it is opened once more."""

    file: ModelFile
    engine: Engine
    contract: ModelContract
    reopen: Callable[[], Engine]
    profile: Profile


class ServedModel:
    """One loaded model with its queue. Answers when `state` is `READY`.

    `max_batch` is what the settings say; where they say nothing, a GPU's is known once it is warm.
    """

    def __init__(
        self, loaded: LoadedModel, metrics: ModelMetrics, settings: Settings, device: DeviceLoad
    ) -> None:
        self.name, self.version = loaded.file.name, loaded.file.version
        self.engine, self.contract = loaded.engine, loaded.contract
        self.metrics = metrics
        self._reopen = loaded.reopen
        provider = self.engine.provider
        self._latencies = LatencyTable(padded=provider.padded)
        self._prover = Prover(
            self.name,
            self.contract,
            loaded.profile,
            self._latencies,
            settings.max_batch or provider.max_batch,
            max_batch_is_free=provider.measures_max_batch and not settings.max_batch,
        )
        self._prover.on_max_batch = self._limit_batches
        self.gate = ImageGate(
            settings.max_queue,
            max_batch=self.max_batch,
            latencies=self._latencies,
            device=device,
            patience_s=settings.model_timeout_ms.get(self.name, settings.request_timeout_ms) / 1000,
        )
        self.machine = StateMachine()
        self._settings = settings
        self._batcher: Batcher | None = None
        self._closing = threading.Event()
        self._failed_at = 0.0  # of time.perf_counter(), while it is reloading
        self.on_device_lost: Callable[[DeviceLostError], None] = self.give_up
        """Called on the thread that met the loss."""

    @property
    def state(self) -> State:
        """Return its state, for clients: one that is lost has failed."""
        state = self.machine.status.state
        return State.FAILED if state is State.LOST else state

    @property
    def reason(self) -> str:
        """Say why it does not answer; empty if it does."""
        return self.machine.status.reason

    @property
    def max_batch(self) -> int:
        """The largest batch."""
        return self._prover.max_batch

    @property
    def broken(self) -> bool:
        """Return whether its file is at fault: its golden cases disagree, or it can't be run."""
        return self.machine.status.state is State.FAILED

    def show_metrics(self) -> None:
        """Let the metrics of its name and version show it from now on."""
        self.metrics.show_info(
            architecture=self.contract.architecture,
            precision=self.contract.precision,
            provider=self.engine.provider.name,
        )
        self.metrics.queue_length.set_function(lambda: self.gate.admitted)
        self.metrics.ready.set_function(lambda: self.state is State.READY)
        self.metrics.broken.set_function(lambda: self.broken)

    def start(self, pool: WorkerPool, concurrency: ConcurrencyLimit) -> None:
        """Let the pool's threads serve the queue."""
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
        """Run the golden cases at each batch size; blocks for as long as it takes.

        Sets the state that comes of it. Gives up between two sizes once `stop` is set.
        """
        started = time.perf_counter()
        try:
            engine, worst = self._prover.prove(self.engine, self._reopen, stop)
        except DisagreementError as error:
            self.machine.to(State.FAILED, str(error))
            _log.error("model_disagrees", model=self.name, detail=self.reason)
            return
        except (DeviceLostError, SessionFailedError) as error:
            # A GPU's memory may have been too little until another process has left it.
            self._on_failure(error)
            return
        except Exception as error:  # noqa: BLE001 - a model that can't run must not stop the others
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
            **self.engine.attested,
            max_batch=self.max_batch,
            golden_max_diff=worst,
            warm_up_s=round(time.perf_counter() - started, 3),
        )

    def _answer_with(self, engine: Engine, *, proved: bool) -> bool:
        """Answer with an engine from now on; False if it is not proved, or the model has ended.

        Then it is closed, unless it is the one that the model has.
        """

        def take() -> None:
            self.engine = engine
            if self._batcher is not None:
                self._batcher.resume(engine)

        # A batch that fails from here on finds it ready, and may say so.
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
        """Answer nobody any more: the device is lost, and the process is to end."""
        self.machine.to(State.LOST, f"the device was lost: {error}")
        if self._batcher is not None:
            self._batcher.suspend(error)

    def _reload_later(self) -> None:
        threading.Thread(target=self._reload, name=f"reload-{self.name}", daemon=True).start()

    def _reload(self) -> None:
        """Open the model again, with back-off, until it agrees with its golden cases.

        On a device that is lost there is no point in it.
        """
        wait_s, (state, begun_by) = _RELOAD_FIRST_S, self.machine.status
        while not self._closing.wait(wait_s):
            wait_s = min(2 * wait_s, _RELOAD_MOST_S)
            try:
                is_ready = self._swap()
            except DeviceLostError as error:
                self.on_device_lost(error)
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the next try may succeed
                self.machine.to(state, f"{begun_by}; loading the model again failed: {error}")
                _log.error("reload_failed", model=self.name, detail=str(error), next_s=wait_s)
                continue
            if is_ready:
                _log.info("model_reloaded", model=self.name, version=self.version)
            return

    def _swap(self) -> bool:
        """Put a new engine in the place of the failed one; False, and none is left, when closing.

        The failed one goes first: there may not be memory for two.
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
        """Return the median milliseconds of a batch, by its size."""
        return {size: round(median * 1000, 3) for size, median, _ in self._latencies.rows()}

    def batcher(self) -> Batcher:
        """Return the queue to submit to; raises `NotReadyError` while the model does not answer."""
        state, reason = self.machine.status
        if self._batcher is None or state is not State.READY:
            raise NotReadyError(f"model {self.name} is not ready: {reason}")
        return self._batcher

    def trouble(self) -> str | None:
        """Say what only a restart mends, if anything: a dead or stuck runner, a reload in vain."""
        stuck_after_s = self._settings.stuck_after_s
        state, reason = self.machine.status
        if state is State.RELOADING and time.perf_counter() - self._failed_at > stuck_after_s:
            return reason
        return self._batcher.trouble(stuck_after_s) if self._batcher else None

    async def retire(self, timeout_s: float) -> None:
        """Answer what was accepted, then close; call on the event loop that answers.

        After `timeout_s` the rest is failed.
        """
        end = time.monotonic() + timeout_s
        self.machine.to(State.RETIRING, "it is being retired")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.gate.emptied()
        await asyncio.to_thread(self.close, max(0.0, end - time.monotonic()))
        self.gate.leave()

    def close(self, timeout_s: float) -> None:
        """Answer what is queued and free the engine; a runner that hangs keeps it."""
        self.machine.to(State.RETIRING, "it is being retired")
        self._closing.set()
        if self._batcher is None or self._batcher.close(timeout_s):
            self.engine.close()
        self.machine.to(State.RETIRED, "it was retired")
