"""The models that are served: loaded, warmed, looked up by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from service.batching.jobs import JobQueue
from service.batching.plan import Device
from service.batching.runners import RunnerPool
from service.batching.schedule import Lane
from service.contract import parse_contract
from service.cpus import cpu_count
from service.engine.base import Engine, Opener
from service.engine.onnx import CudaOptions, OnnxOpener
from service.errors import (
    DeviceLostError,
    ModelFileError,
    ModelRequiredError,
    ModelSelectionError,
    UnknownModelError,
)
from service.memory import give_back_freed
from service.metrics import Metrics
from service.model_files import ModelFile, builtin_file, discover
from service.served import LoadedModel, ServedModel
from service.settings import Settings
from service.tuning.cache import ProfileCache
from service.tuning.choice import Choice, choose_layout
from service.tuning.facts import facts_of
from service.tuning.profile import Profile
from service.tuning.trials import OneEngine

_log = structlog.get_logger(__name__)


class Repository:
    """All served models, by name and version. Fixed once loaded."""

    def __init__(
        self, models: Iterable[ServedModel], default: str | None, device: Device, jobs: JobQueue,
        layout: Choice, stuck_after_s: float, opener: Opener,
    ) -> None:  # fmt: skip
        self._models: dict[str, dict[int, ServedModel]] = {}
        for model in models:
            self._models.setdefault(model.name, {})[model.version] = model
        self._default = default or (next(iter(self._models)) if len(self._models) == 1 else None)
        self._device, self._jobs = device, jobs
        self.layout = layout
        self._stuck_after_s = stuck_after_s
        self._opener = opener
        self._pool: RunnerPool | None = None
        self._losing = threading.Lock()
        self.lost: DeviceLostError | None = None
        self.on_device_lost: Callable[[], None] = lambda: None
        """Called once, on the thread that met the loss; nothing can be answered any more."""
        opener.watch(self._lose_device)
        for model in self:
            model.on_device_lost = self._lose_device

    def __iter__(self) -> Iterator[ServedModel]:
        for versions in self._models.values():
            yield from versions.values()

    def start(self) -> None:
        """Start the device's threads, which all models share; call on the event loop.

        A core decodes or runs a batch; a thread that waits for a GPU leaves its core to others.
        """
        runners, decoders = self.layout.layout.runners, self._jobs.threads
        threads = max(runners, decoders) if self._on_cpu() else runners + decoders
        # Those that decode at a time, and have a core for it.
        self._device.decoders = min(decoders, cpu_count())
        self._device.shares_threads = self._on_cpu()
        self._pool = RunnerPool(threads)
        self._device.running = self._pool.running
        self._jobs.start(self._pool)
        lane = Lane(runners, serial=not self._on_cpu())
        for model in self:
            model.start(self._pool, lane)

    def _lose_device(self, error: DeviceLostError) -> None:
        """Answer nobody any more, of any model; readiness goes before those who wait are told."""
        with self._losing:
            if self.lost is not None:
                return
            self.lost = error
        _log.error("device_lost", detail=str(error))
        for model in self:
            model.give_up(error)
        self.on_device_lost()

    def devices(self) -> list[dict[str, Any]]:
        """Describe the GPUs in use; none on a CPU."""
        return self._opener.devices()

    def _on_cpu(self) -> bool:
        return all(model.engine.provider == "cpu" for model in self)

    def warm_up(self, stop: threading.Event) -> None:
        """Make every model ready, one after the other; gives up soon once `stop` is set."""
        for model in self:
            model.warm_up(stop)
        for device in self.devices():
            _log.info("gpu", **device)

    def title(self, model: ServedModel) -> str:
        """Name a model, with its version if there are others of that name."""
        several = len(self._models[model.name]) > 1
        return f"{model.name}/{model.version}" if several else model.name

    def troubles(self) -> dict[str, str]:
        """Say what only a restart mends, by model, and of decoding."""
        if self.lost is not None:
            return {"device": f"lost: {self.lost}"}
        found = {self.title(model): trouble for model in self if (trouble := model.trouble())}
        found |= self._opener.trouble(self._stuck_after_s)
        if self._pool is not None and (trouble := self._jobs.trouble(self._stuck_after_s)):
            found["decoding"] = trouble
        return found

    def close(self, timeout_s: float) -> None:
        """Answer what is queued, then stop the runners and free the engines.

        On a lost device nobody is left to be answered, and to free what is there may hang.
        """
        if self.lost is not None:
            return
        end = time.monotonic() + timeout_s
        for model in self:
            model.close(max(0.0, end - time.monotonic()))
        if self._pool is not None:
            self._pool.close(max(0.0, end - time.monotonic()))
        self._opener.close(max(0.0, end - time.monotonic()))

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


def load_repository(
    settings: Settings,
    metrics: Metrics,
    jobs: JobQueue | None = None,
    opener: Opener | None = None,
) -> Repository:
    """Load every model that the settings ask for; each is "warming" until `warm_up` has run.

    `opener` opens them in the place of ONNX Runtime, as a simulated device does.

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
    cache = ProfileCache(settings.cache_dir)
    first = _first_asked_for(files, settings.default_model)
    opener = opener or onnx_opener(settings)
    engines = OneEngine(opener, first.path)
    choice = choose_layout(first.path, opener, engines, settings, models=len(files), cache=cache)
    opened = {first: engines.with_threads(choice.layout.intra_op_threads)}
    on_cpu = opened[first].provider == "cpu"
    # A GPU computes one batch at a time, whatever else is got ready beside it.
    device = Device(choice.layout.runners if on_cpu else 1, jobs)
    models = []
    for file in files:
        open_engine = partial(
            opener.open, file.path, intra_op_threads=choice.layout.intra_op_threads
        )
        loaded = _load(file, opened.get(file) or open_engine(), open_engine, settings, cache)
        models.append(_serve(loaded, metrics, settings, device))
    give_back_freed()
    return Repository(
        models, settings.default_model, device, jobs, choice, settings.stuck_after_s, opener
    )


def _first_asked_for(files: Sequence[ModelFile], default: str | None) -> ModelFile:
    """Give the default model's highest version; without a default, that of the first model."""
    name = default or files[0].name
    return max((file for file in files if file.name == name), key=lambda file: file.version)


def onnx_opener(settings: Settings) -> OnnxOpener:
    """Make what opens model files with ONNX Runtime, as the settings ask."""
    cuda = CudaOptions(
        settings.device_id,
        settings.tf32,
        settings.cuda_graphs,
        **({"batches": settings.runners} if settings.runners else {}),
    )
    return OnnxOpener(settings.provider, cuda)


def _load(
    file: ModelFile,
    engine: Engine,
    open_engine: partial[Engine],
    settings: Settings,
    cache: ProfileCache,
) -> LoadedModel:
    contract = parse_contract(engine.metadata, file=str(file.path))
    if engine.classes not in (None, len(contract.labels)):
        raise ModelFileError(
            f"{file.path}: gives {engine.classes} probabilities, "
            f"but its contract has {len(contract.labels)} labels"
        )

    def facts(engine: Engine) -> dict[str, Any] | None:
        return facts_of(
            file.path,
            engine.provider,
            device_id=settings.device_id,
            tf32=engine.tf32,
            max_batch=settings.max_batch,
            intra_op_threads=open_engine.keywords["intra_op_threads"],
            **engine.attested,
        )

    return LoadedModel(
        file,
        engine,
        contract,
        # Where it runs now: plans, threads and metrics are made for that, and "auto" would take a
        # GPU that fails for none.
        reopen=partial(open_engine, provider=engine.provider),
        profile=Profile(cache, facts),
    )


def _serve(
    loaded: LoadedModel, metrics: Metrics, settings: Settings, device: Device
) -> ServedModel:
    file, engine, contract = loaded.file, loaded.engine, loaded.contract
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
    return ServedModel(loaded, metrics.for_model(file.name, file.version), settings, device)
