"""One model that is served: its engine, its gate and its queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from service.batching.admission import Device, ImageGate
from service.batching.batcher import Batcher
from service.batching.latency import LatencyTable
from service.batching.runners import Lane, RunnerPool
from service.contract import ModelContract
from service.engine.base import Engine
from service.errors import DeviceLostError, NotReadyError
from service.golden import check_golden, golden_pattern
from service.metrics import ModelMetrics
from service.model_files import ModelFile
from service.settings import Settings
from service.tuning.profile import Profile

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
    """One loaded model with its queue. Answers when `state` is "ready"."""

    def __init__(
        self, loaded: LoadedModel, metrics: ModelMetrics, settings: Settings, device: Device
    ) -> None:
        self.name, self.version = loaded.file.name, loaded.file.version
        self.engine, self.contract = loaded.engine, loaded.contract
        self.metrics = metrics
        self._reopen, self._profile = loaded.reopen, loaded.profile
        self._latencies = LatencyTable(padded=self.engine.provider != "cpu")
        self.gate = ImageGate(
            settings.max_queue,
            max_batch=settings.max_batch,
            latencies=self._latencies,
            device=device,
        )
        self.state: State = "warming"
        self.reason = "warming up"
        self._settings = settings
        self._batcher: Batcher | None = None
        self._closing = threading.Event()
        self._swapping = threading.Lock()
        self._lost_at = 0.0  # of time.perf_counter(), while the state is "reloading"
        metrics.queue_length.set_function(lambda: self.gate.admitted)
        metrics.ready.set_function(lambda: self.state == "ready")

    def start(self, pool: RunnerPool, lane: Lane) -> None:
        """Let the pool's threads serve the queue; call on the event loop."""
        self._batcher = Batcher(
            self.engine,
            self.metrics,
            pool,
            max_batch=self._settings.max_batch,
            max_delay_s=self._settings.max_delay_ms / 1000,
            latencies=self._latencies,
            lane=lane,
        )
        self._batcher.on_device_lost = self._on_device_lost

    def warm_up(self, stop: threading.Event) -> None:
        """Run the golden cases at each batch size; sets `state`, blocks for as long as it takes.

        Gives up between two sizes once `stop` is set.
        """
        started = time.perf_counter()
        try:
            worst = self._prove(self.engine, stop)
        except _DisagreementError as error:
            self.state, self.reason = "failed", str(error)
            _log.error("model_disagrees", model=self.name, detail=self.reason)
            return
        except DeviceLostError as error:
            self._on_device_lost(error)
            return
        except Exception as error:  # noqa: BLE001 - a model that can't run must not stop the others
            _log.exception("warm_up_failed", model=self.name, version=self.version)
            self.state, self.reason = "failed", f"warm-up failed: {error}"
            # A GPU's memory may have been too little until another process has left it.
            self.engine.close()
            self._reload_later()
            return
        if worst is None:
            return
        self.state, self.reason = "ready", ""
        _log.info(
            "model_ready",
            model=self.name,
            version=self.version,
            provider=self.engine.provider,
            golden_max_diff=worst,
            warm_up_s=round(time.perf_counter() - started, 3),
        )

    def _prove(self, engine: Engine, stop: threading.Event) -> float | None:
        """Time each batch size and run the golden cases in it.

        Gives the largest difference to their known answers, or None once `stop` is set. Raises
        `_DisagreementError`, or what the engine raises.
        """
        worst, failures = 0.0, dict[str, None]()
        pixels = golden_pattern(1, self.contract.preprocessing.crop)
        for batch in buckets(self._settings.max_batch):
            if stop.is_set():
                return None
            for seconds in self._profile.times(engine, pixels, batch):
                self._latencies.measure(batch, seconds)
            report = check_golden(engine, self.contract, batch)
            worst = max(worst, report.max_abs_diff)
            failures |= dict.fromkeys(report.failures)
            for warning in report.warnings if batch == 1 else ():
                _log.warning("golden_case", model=self.name, detail=warning)
        if failures:
            raise _DisagreementError("; ".join(failures))
        return worst

    def _on_device_lost(self, error: DeviceLostError) -> None:
        self._lost_at = time.perf_counter()
        self.state, self.reason = "reloading", f"the device was lost: {error}"
        _log.error("device_lost", model=self.name, version=self.version, detail=str(error))
        self._reload_later()

    def _reload_later(self) -> None:
        threading.Thread(target=self._reload, name=f"reload-{self.name}", daemon=True).start()

    def _reload(self) -> None:
        """Open the model again, with back-off, until it agrees with its golden cases."""
        wait_s, begun_by = _RELOAD_FIRST_S, self.reason
        while not self._closing.wait(wait_s):
            wait_s = min(2 * wait_s, _RELOAD_MOST_S)
            try:
                swapped = self._swap()
            except Exception as error:  # noqa: BLE001 - whatever it is, the next try may succeed
                self.reason = f"{begun_by}; loading the model again failed: {error}"
                _log.error("reload_failed", model=self.name, detail=str(error), next_s=wait_s)
                continue
            if swapped:
                _log.info("model_reloaded", model=self.name, version=self.version)
            return

    def _swap(self) -> bool:
        """Put a new engine in the place of the lost one; False, and none is left, when closing."""
        engine, lost = self._reopen(), self.engine
        self._latencies.forget()  # a device that is about to fail may be slow
        try:
            proved = self._prove(engine, self._closing) is not None
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
            self._batcher.resume(engine)  # last: from here on it can be lost again
        lost.close()
        return True

    def latency_ms(self) -> dict[int, float]:
        """Give the median milliseconds of a batch, by its size."""
        return {size: round(median * 1000, 3) for size, median, _ in self._latencies.rows()}

    def batcher(self) -> Batcher:
        """Give the queue to submit to; raises `NotReadyError` while the model does not answer."""
        if self._batcher is None or self.state != "ready":
            raise NotReadyError(f"model {self.name} is not ready: {self.reason}")
        return self._batcher

    def trouble(self) -> str | None:
        """Say what only a restart mends, if anything: a dead or stuck runner, a device lost."""
        stuck_after_s = self._settings.stuck_after_s
        if self.state == "reloading" and time.perf_counter() - self._lost_at > stuck_after_s:
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
