"""One model that is served: its engine, its gate and its queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

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
    DeviceMemoryError,
    NotReadyError,
    SessionFailedError,
)
from service.golden import check_golden, golden_pattern
from service.metrics import ModelMetrics
from service.models.files import ModelFile
from service.settings import Settings
from service.tuning.profile import Profile, smallest_nearly_best

_log = structlog.get_logger(__name__)

_RELOAD_FIRST_S, _RELOAD_MOST_S = 1.0, 60.0

State = Literal["warming", "ready", "reloading", "failed"]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model file that was opened: what it is, what runs it, and how it is opened once more."""

    file: ModelFile
    engine: Engine
    contract: ModelContract
    reopen: Callable[[], Engine]
    profile: Profile


class ServedModel:
    """One loaded model with its queue. Answers when `state` is "ready".

    `max_batch` is what the settings say; where they say nothing, a GPU's is known once it is warm.
    """

    def __init__(
        self, loaded: LoadedModel, metrics: ModelMetrics, settings: Settings, device: DeviceLoad
    ) -> None:
        self.name, self.version = loaded.file.name, loaded.file.version
        self.engine, self.contract = loaded.engine, loaded.contract
        self.metrics = metrics
        self._reopen, self._profile = loaded.reopen, loaded.profile
        provider = self.engine.provider
        self._latencies = LatencyTable(padded=provider.padded)
        self.max_batch = settings.max_batch or provider.max_batch
        self._max_batch_is_free = provider.measures_max_batch and not settings.max_batch
        self.gate = ImageGate(
            settings.max_queue,
            max_batch=self.max_batch,
            latencies=self._latencies,
            device=device,
            patience_s=settings.model_timeout_ms.get(self.name, settings.request_timeout_ms) / 1000,
        )
        self.state: State = "warming"
        self.reason = "warming up"
        self._settings = settings
        self._batcher: Batcher | None = None
        self._closing = threading.Event()
        self._swapping = threading.Lock()
        self._lost = False  # with its device
        self._failed_at = 0.0  # of time.perf_counter(), while the state is "reloading"
        self.on_device_lost: Callable[[DeviceLostError], None] = self.give_up
        """Called on the thread that met the loss."""
        metrics.queue_length.set_function(lambda: self.gate.admitted)
        metrics.ready.set_function(lambda: self.state == "ready")
        metrics.broken.set_function(lambda: self.broken)

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
        """Run the golden cases at each batch size; sets `state`, blocks for as long as it takes.

        Gives up between two sizes once `stop` is set.
        """
        started = time.perf_counter()
        try:
            self.engine, worst = self._prove_as_memory_allows(self.engine, stop)
            if self._batcher is not None:
                self._batcher.resume(self.engine)  # it may be another one
        except _DisagreementError as error:
            self.state, self.reason = "failed", str(error)
            _log.error("model_disagrees", model=self.name, detail=self.reason)
            return
        except (DeviceLostError, SessionFailedError) as error:
            # A GPU's memory may have been too little until another process has left it.
            self._on_failure(error)
            return
        except Exception as error:  # noqa: BLE001 - a model that can't run must not stop the others
            _log.exception("warm_up_failed", model=self.name, version=self.version)
            self.state, self.reason = "failed", f"warm-up failed: {error}"
            self._reload_later()
            return
        if worst is None:
            return
        self.state, self.reason = "ready", ""
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

    def _prove_as_memory_allows(
        self, engine: Engine, stop: threading.Event
    ) -> tuple[Engine, float | None]:
        """Do `_prove`; where no largest batch is set, without those that don't fit the memory.

        Gives the engine that was proved, which is another one then, and what `_prove` gives.
        """
        while True:
            try:
                return engine, self._prove(engine, stop)
            except DeviceMemoryError as error:
                if not self._max_batch_is_free or self.max_batch == 1:
                    raise
                reason = str(error)
            self._limit_batches(self.max_batch // 2)
            _log.warning(
                "max_batch_lowered", model=self.name, max_batch=self.max_batch, detail=reason
            )
            engine.close()
            engine = self._reopen()

    def _prove(self, engine: Engine, stop: threading.Event) -> float | None:
        """Time the batch sizes and run the golden cases in each.

        Gives the largest difference to their known answers, or None once `stop` is set. Raises
        `_DisagreementError`, or what the engine raises.
        """
        pixels = golden_pattern(1, self.contract.preprocessing.crop)
        engine.prepare(buckets(self.max_batch))
        times = self._profile.measure(engine, pixels, buckets(self.max_batch), stop)
        if times and self._max_batch_is_free:
            self._limit_batches(smallest_nearly_best(times))
            engine.prepare(buckets(self.max_batch))
        worst, failures = 0.0, dict[str, None]()
        for batch in buckets(self.max_batch):
            if times is None or stop.is_set():
                return None
            for seconds in times.get(batch, ()):
                self._latencies.measure(batch, seconds)
            report = check_golden(engine, self.contract, batch)
            worst = max(worst, report.max_abs_diff)
            failures |= dict.fromkeys(report.failures)
            for warning in report.warnings if batch == 1 else ():
                _log.warning("golden_case", model=self.name, detail=warning)
        if failures:
            raise _DisagreementError("; ".join(failures))
        return worst

    def _limit_batches(self, max_batch: int) -> None:
        self.max_batch = self.gate.max_batch = max_batch
        if self._batcher is not None:
            self._batcher.limit_batches(max_batch)

    def _on_failure(self, error: DeviceLostError | SessionFailedError) -> None:
        if isinstance(error, DeviceLostError):
            self.on_device_lost(error)
            return
        self._failed_at = time.perf_counter()
        self.state, self.reason = "reloading", f"its session failed: {error}"
        _log.error("session_failed", model=self.name, version=self.version, detail=str(error))
        self._reload_later()

    def give_up(self, error: DeviceLostError) -> None:
        """Answer nobody any more: the device is lost, and the process is to end."""
        self._lost = True
        self.state, self.reason = "failed", f"the device was lost: {error}"
        if self._batcher is not None:
            self._batcher.suspend(error)

    def _reload_later(self) -> None:
        threading.Thread(target=self._reload, name=f"reload-{self.name}", daemon=True).start()

    def _reload(self) -> None:
        """Open the model again, with back-off, until it agrees with its golden cases.

        On a device that is lost there is no point in it.
        """
        wait_s, begun_by = _RELOAD_FIRST_S, self.reason
        while not self._closing.wait(wait_s):
            wait_s = min(2 * wait_s, _RELOAD_MOST_S)
            try:
                swapped = self._swap()
            except DeviceLostError as error:
                self.on_device_lost(error)
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the next try may succeed
                self.reason = f"{begun_by}; loading the model again failed: {error}"
                _log.error("reload_failed", model=self.name, detail=str(error), next_s=wait_s)
                continue
            if swapped:
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
            engine, worst = self._prove_as_memory_allows(engine, self._closing)
            proved = worst is not None
            with self._swapping:
                if not proved or self._closing.is_set():
                    engine.close()
                    return False
                self.engine = engine
        except BaseException:
            engine.close()
            raise
        if self.state == "failed" and self._batcher is not None:
            self._batcher.resume(engine)  # it was never ready, so nobody has submitted anything
        self.state, self.reason = "ready", ""
        if self._batcher is not None:
            self._batcher.resume(engine)  # last: from here on it can fail again
        return True

    @property
    def broken(self) -> bool:
        """Return whether its file is at fault: its golden cases disagree, or it can't be run."""
        return self.state == "failed" and not self._lost

    def latency_ms(self) -> dict[int, float]:
        """Return the median milliseconds of a batch, by its size."""
        return {size: round(median * 1000, 3) for size, median, _ in self._latencies.rows()}

    def batcher(self) -> Batcher:
        """Return the queue to submit to; raises `NotReadyError` while the model does not answer."""
        if self._batcher is None or self.state != "ready":
            raise NotReadyError(f"model {self.name} is not ready: {self.reason}")
        return self._batcher

    def trouble(self) -> str | None:
        """Say what only a restart mends, if anything: a dead or stuck runner, a reload in vain."""
        stuck_after_s = self._settings.stuck_after_s
        if self.state == "reloading" and time.perf_counter() - self._failed_at > stuck_after_s:
            return self.reason
        return self._batcher.trouble(stuck_after_s) if self._batcher else None

    def close(self, timeout_s: float) -> None:
        """Answer what is queued and free the engine; a runner that hangs keeps it."""
        with self._swapping:
            self._closing.set()
        if self._batcher is None or self._batcher.close(timeout_s):
            self.engine.close()


def buckets(max_batch: int) -> list[int]:
    """Batch sizes to be ready for: 1, 2, 4, ... and `max_batch`."""
    sizes = [1]
    while sizes[-1] * 2 < max_batch:
        sizes.append(sizes[-1] * 2)
    return sizes if max_batch == 1 else [*sizes, max_batch]


class _DisagreementError(Exception):
    """The model's answers are not those of its golden cases."""
