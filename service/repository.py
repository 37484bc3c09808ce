"""The models that are served: loaded, warmed, looked up by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import structlog

from service.batching.admission import Device, ImageGate
from service.batching.batcher import Batcher
from service.batching.jobs import JobQueue
from service.batching.latency import LatencyTable
from service.batching.runners import Lane, RunnerPool
from service.contract import ModelContract, parse_contract
from service.cpus import cpu_count
from service.engine.base import Engine
from service.engine.onnx import load_engine
from service.errors import (
    ModelFileError,
    ModelRequiredError,
    ModelSelectionError,
    NotReadyError,
    UnknownModelError,
)
from service.golden import check_golden, golden_pattern
from service.metrics import Metrics, ModelMetrics
from service.model_files import ModelFile, builtin_file, discover
from service.settings import Settings

_log = structlog.get_logger(__name__)

_PROFILE_RUNS = 3

State = Literal["warming", "ready", "failed"]


class ServedModel:
    """One loaded model with its queue. Answers when `state` is "ready"."""

    def __init__(
        self, file: ModelFile, engine: Engine, contract: ModelContract, metrics: ModelMetrics,
        settings: Settings,
        device: Device,
    ) -> None:  # fmt: skip
        self.name, self.version = file.name, file.version
        self.engine = engine
        self.contract = contract
        self.metrics = metrics
        self._latencies = LatencyTable()
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

    def warm_up(self, stop: threading.Event) -> None:
        """Run the golden cases at each batch size; sets `state`, blocks for as long as it takes.

        Gives up between two sizes once `stop` is set.
        """
        started = time.perf_counter()
        try:
            worst, failures = 0.0, dict[str, None]()
            for batch in buckets(self._settings.max_batch):
                if stop.is_set():
                    return
                self._profile(batch)
                report = check_golden(self.engine, self.contract, batch)
                worst = max(worst, report.max_abs_diff)
                failures |= dict.fromkeys(report.failures)
                for warning in report.warnings if batch == 1 else ():
                    _log.warning("golden_case", model=self.name, detail=warning)
        except Exception as error:  # noqa: BLE001 - a model that can't run must not stop the others
            _log.exception("warm_up_failed", model=self.name, version=self.version)
            self.state, self.reason = "failed", f"warm-up failed: {error}"
            return
        if failures:
            self.state, self.reason = "failed", "; ".join(failures)
            _log.error("model_disagrees", model=self.name, detail=self.reason)
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

    def _profile(self, batch: int) -> None:
        """Time a batch size, for the plans of the first requests; live batches keep it current."""
        pixels = golden_pattern(1, self.contract.preprocessing.crop)
        images = np.repeat(pixels[np.newaxis], batch, axis=0)
        self.engine.run(images)  # the first run of a size allocates, and on a GPU chooses kernels
        for _ in range(_PROFILE_RUNS):
            started = time.perf_counter()
            self.engine.run(images)
            self._latencies.observe(batch, time.perf_counter() - started)

    def latency_ms(self) -> dict[int, float]:
        """Give the median milliseconds of a batch, by its size."""
        return {size: round(median * 1000, 3) for size, median, _ in self._latencies.rows()}

    def batcher(self) -> Batcher:
        """Give the queue to submit to; raises `NotReadyError` while the model does not answer."""
        if self._batcher is None or self.state != "ready":
            raise NotReadyError(f"model {self.name} is not ready: {self.reason}")
        return self._batcher

    def trouble(self) -> str | None:
        """Say what is wrong with the runner, if anything."""
        return self._batcher.trouble(self._settings.stuck_after_s) if self._batcher else None

    def close(self, timeout_s: float) -> None:
        """Answer what is queued and free the engine; a runner that hangs keeps it."""
        if self._batcher is None or self._batcher.close(timeout_s):
            self.engine.close()


class Repository:
    """All served models, by name and version. Fixed once loaded."""

    def __init__(
        self, models: Iterable[ServedModel], default: str | None, device: Device, jobs: JobQueue
    ) -> None:
        self._models: dict[str, dict[int, ServedModel]] = {}
        for model in models:
            self._models.setdefault(model.name, {})[model.version] = model
        self._default = default or (next(iter(self._models)) if len(self._models) == 1 else None)
        self._device, self._jobs = device, jobs
        self._pool: RunnerPool | None = None

    def __iter__(self) -> Iterator[ServedModel]:
        for versions in self._models.values():
            yield from versions.values()

    def start(self) -> None:
        """Start the device's threads, which all models share; call on the event loop.

        A core decodes or runs a batch; a thread that waits for a GPU leaves its core to others.
        """
        runners, decoders = self._device.runners, self._jobs.threads
        threads = max(runners, decoders) if self._on_cpu() else runners + decoders
        self._device.decoding_threads = threads if self._on_cpu() else 0
        self._pool = RunnerPool(threads)
        self._device.running = self._pool.running
        self._jobs.start(self._pool)
        lane = Lane(runners)
        for model in self:
            model.start(self._pool, lane)

    def _on_cpu(self) -> bool:
        return all(model.engine.provider == "cpu" for model in self)

    def close(self, timeout_s: float) -> None:
        """Answer what is queued, then stop the runners and free the engines."""
        end = time.monotonic() + timeout_s
        for model in self:
            model.close(max(0.0, end - time.monotonic()))
        if self._pool is not None:
            self._pool.close(max(0.0, end - time.monotonic()))

    @property
    def default(self) -> str | None:
        """The model for requests that name none."""
        return self._default

    def find(self, name: str | None, version: int | None = None) -> ServedModel:
        """Look a model up; without a version, the highest. A name is never used as a path.

        Raises `ModelRequiredError` or `UnknownModelError`, both listing what there is.
        """
        known = ", ".join(sorted(self._models))
        name = name or self._default
        if name is None:
            raise ModelRequiredError(f"name one of the models with ?model=: {known}")
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModelError(f"there is no model of that name; served are: {known}")
        if version is None:
            return versions[max(versions)]
        if version not in versions:
            there = ", ".join(str(number) for number in sorted(versions))
            raise UnknownModelError(f"model {name} has no version {version}; it has: {there}")
        return versions[version]


def buckets(max_batch: int) -> list[int]:
    """Batch sizes to be ready for: 1, 2, 4, ... and `max_batch`."""
    sizes = [1]
    while sizes[-1] * 2 < max_batch:
        sizes.append(sizes[-1] * 2)
    return sizes if max_batch == 1 else [*sizes, max_batch]


def load_repository(
    settings: Settings, metrics: Metrics, jobs: JobQueue | None = None
) -> Repository:
    """Load every model that the settings ask for; each is "warming" until `warm_up` has run.

    Raises a `StartupError` that names the file or setting at fault.
    """
    files = discover(settings.models) if settings.models else []
    if settings.builtin or not settings.models:
        files.append(builtin_file())
    seen: dict[tuple[str, int], Path] = {}
    for file in files:
        other = seen.setdefault((file.name, file.version), file.path)
        if other != file.path:
            raise ModelSelectionError(
                f"{file.path} and {other} are both {file.name} version {file.version}"
            )
    names = {file.name for file in files}
    if settings.default_model is not None and settings.default_model not in names:
        raise ModelSelectionError(
            f"--default-model: there is no {settings.default_model!r}; "
            f"served are: {', '.join(sorted(names))}"
        )
    unknown = sorted(set(settings.model_timeout_ms) - names)
    if unknown:
        raise ModelSelectionError(
            f"--model-timeout-ms: there is no {unknown[0]!r}; served are: "
            f"{', '.join(sorted(names))}"
        )
    jobs = jobs or JobQueue(1)
    device = Device(settings.runners or cpu_count(), jobs)
    return Repository(
        [_load(file, settings, metrics, device) for file in files],
        default=settings.default_model,
        device=device,
        jobs=jobs,
    )


def _load(file: ModelFile, settings: Settings, metrics: Metrics, device: Device) -> ServedModel:
    engine = load_engine(
        file.path,
        provider=settings.provider,
        intra_op_threads=settings.intra_op_threads,
        device_id=settings.device_id,
        tf32=settings.tf32,
    )
    contract = parse_contract(engine.metadata, file=str(file.path))
    if engine.classes not in (None, len(contract.labels)):
        raise ModelFileError(
            f"{file.path}: gives {engine.classes} probabilities, "
            f"but its contract has {len(contract.labels)} labels"
        )
    metrics.set_model_info(
        file.name,
        file.version,
        architecture=contract.architecture,
        precision=contract.precision,
        provider=engine.provider,
    )
    _log.info(
        "model_loaded",
        model=file.name,
        version=file.version,
        path=str(file.path),
        provider=engine.provider,
    )
    model_metrics = metrics.for_model(file.name, file.version)
    return ServedModel(file, engine, contract, model_metrics, settings, device)
