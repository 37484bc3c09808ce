"""The models that are served: loaded, warmed, looked up by name."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import structlog

from service.batching.admission import Device
from service.batching.jobs import JobQueue
from service.batching.runners import Lane, RunnerPool
from service.contract import parse_contract
from service.cpus import cpu_count
from service.engine.onnx import OnnxEngine, load_engine
from service.errors import (
    ModelFileError,
    ModelRequiredError,
    ModelSelectionError,
    UnknownModelError,
)
from service.memory import give_back_freed
from service.metrics import Metrics
from service.model_files import ModelFile, builtin_file, discover
from service.served import LoadedModel, ServedModel, buckets
from service.settings import Settings
from service.tuning.cache import ProfileCache
from service.tuning.choice import Choice, choose_layout
from service.tuning.facts import facts_of
from service.tuning.layout import Layout
from service.tuning.profile import Profile
from service.tuning.trials import OneEngine

_log = structlog.get_logger(__name__)


class Repository:
    """All served models, by name and version. Fixed once loaded."""

    def __init__(
        self, models: Iterable[ServedModel], default: str | None, device: Device, jobs: JobQueue,
        layout: Choice, stuck_after_s: float,
    ) -> None:  # fmt: skip
        self._models: dict[str, dict[int, ServedModel]] = {}
        for model in models:
            self._models.setdefault(model.name, {})[model.version] = model
        self._default = default or (next(iter(self._models)) if len(self._models) == 1 else None)
        self._device, self._jobs = device, jobs
        self.layout = layout
        self._stuck_after_s = stuck_after_s
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
        # Those that decode at a time, and have a core for it.
        decoding = min(decoders, cpu_count())
        self._device.decoding_threads = decoding if self._on_cpu() else 0
        self._pool = RunnerPool(threads)
        self._device.running = self._pool.running
        self._jobs.start(self._pool)
        lane = Lane(runners)
        for model in self:
            model.start(self._pool, lane)

    def _on_cpu(self) -> bool:
        return all(model.engine.provider == "cpu" for model in self)

    def title(self, model: ServedModel) -> str:
        """Name a model, with its version if there are others of that name."""
        several = len(self._models[model.name]) > 1
        return f"{model.name}/{model.version}" if several else model.name

    def troubles(self) -> dict[str, str]:
        """Say what only a restart mends, by model, and of decoding."""
        found = {self.title(model): trouble for model in self if (trouble := model.trouble())}
        if self._pool is not None and (trouble := self._jobs.trouble(self._stuck_after_s)):
            found["decoding"] = trouble
        return found

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
    cache = ProfileCache(settings.cache_dir)
    first = _first_asked_for(files, settings.default_model)
    engines = OneEngine(_opener(first, settings), settings.provider)
    choice = choose_layout(first.path, engines, settings, models=len(files), cache=cache)
    opened = {first: engines.with_threads(choice.layout.intra_op_threads)}
    device = Device(choice.layout.runners, jobs)
    models = [
        _load(file, settings, metrics, device, choice.layout, cache, opened.get(file))
        for file in files
    ]
    give_back_freed()
    return Repository(models, settings.default_model, device, jobs, choice, settings.stuck_after_s)


def _first_asked_for(files: Sequence[ModelFile], default: str | None) -> ModelFile:
    """Give the default model's highest version; without a default, that of the first model."""
    name = default or files[0].name
    return max((file for file in files if file.name == name), key=lambda file: file.version)


def _opener(file: ModelFile, settings: Settings) -> partial[OnnxEngine]:
    return partial(load_engine, file.path, device_id=settings.device_id, tf32=settings.tf32)


def _load(
    file: ModelFile, settings: Settings, metrics: Metrics, device: Device, layout: Layout,
    cache: ProfileCache,
    opened: OnnxEngine | None,
) -> ServedModel:  # fmt: skip
    open_engine = partial(_opener(file, settings), intra_op_threads=layout.intra_op_threads)
    engine = opened or open_engine(provider=settings.provider)
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
    facts = partial(
        facts_of,
        file.path,
        engine.provider,
        device_id=settings.device_id,
        tf32=engine.tf32,
        max_batch=settings.max_batch,
        intra_op_threads=layout.intra_op_threads,
    )
    loaded = LoadedModel(
        file,
        engine,
        contract,
        # Where it runs now: plans, threads and metrics are made for that, and "auto" would take a
        # lost GPU for none.
        reopen=partial(open_engine, provider=engine.provider),
        profile=Profile(buckets(settings.max_batch), cache, facts),
    )
    return ServedModel(loaded, metrics.for_model(file.name, file.version), settings, device)
