"""Loads the models that the settings specify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from service.batching.decode_pool import DecodePool
from service.batching.plan import DeviceLoad
from service.engine.base import Opener
from service.engine.onnx import OnnxOpener
from service.engine.providers import EngineOptions
from service.errors import ModelFileError, ModelSelectionError
from service.memory import give_back_freed
from service.metrics import Metrics
from service.models.eviction import EvictedModel, Newcomer, Room
from service.models.files import BrokenModel, ModelFile, builtin_file, discover, reason_for_clients
from service.models.model import LoadedModel
from service.models.model_loader import Chosen, ModelLoader
from service.models.model_set import ModelSet
from service.models.model_settings import ModelConfig, ModelSettings
from service.models.repository import Repository
from service.models.stamps import stamp_of
from service.settings import Settings
from service.tracebacks import forget_frames
from service.tuning.autotune import ParallelismChoice
from service.tuning.cache import ProfileCache
from service.versions import VersionPolicy

_log = structlog.get_logger(__name__)


def load_repository(
    settings: Settings,
    metrics: Metrics,
    decode_pool: DecodePool | None = None,
    opener: Opener | None = None,
) -> Repository:
    """Load every model that the settings specify; each is "warming" until `warm_up` has run.

    `opener` opens them instead of ONNX Runtime, for example on a simulated device. A broken file
    does not keep the others from being served; see `_Loading`.

    Raises a `StartupError` that names the file or setting at fault.
    """
    config = ModelConfig(settings)
    files = _asked_for(settings, config)
    names = list(dict.fromkeys(file.name for file in files))
    default = settings.default_model or (names[0] if len(names) == 1 else None)
    decode_pool = decode_pool or DecodePool(1)
    cache = ProfileCache(settings.cache_dir)
    policies = _policies(config, files)
    first = _first_asked_for(files, settings.default_model, policies)
    required = first if default else None
    loader = ModelLoader(settings, metrics, opener or onnx_opener(settings), cache, config)
    loading = _Loading(settings, loader, required)
    choice = loading.choose([first, *(file for file in files if file != first)])
    _log.info("parallelism_chosen", **choice.described())
    evicted = loading.load_what_fits(files, Room(settings), config)
    provider = next(iter(loading.loaded.values())).engine.provider
    # A GPU computes one batch at a time, even while the next is being prepared.
    device = DeviceLoad(1 if provider.own_device else choice.parallelism.runners, decode_pool)
    loader.device = device
    served = [loader.serve(loading.loaded[file]) for file in files if file in loading.loaded]
    for model in loading.broken:
        metrics.show_broken(model.name, model.version)
    give_back_freed()
    models = ModelSet(served, loading.broken, evicted, default, settings.strict_models)
    return Repository(models, device, decode_pool, choice, settings.stuck_after_s, loader)


def _asked_for(settings: Settings, config: ModelConfig) -> list[ModelFile]:
    """Find the files that the settings specify, and log those of a folder that can't be served."""
    files: list[ModelFile] = []
    if settings.models:
        found = discover(settings.models)
        for passed_over in found.passed_over:
            if settings.strict_models:
                raise ModelSelectionError(f"{passed_over} (--strict-models)")
            _log.warning(
                "model_file_passed_over", path=str(passed_over.path), detail=passed_over.reason
            )
        files += found.files
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
    may_come = settings.watch or settings.admin  # models that are not there yet
    for flag, name in (
        ("--default-model", settings.default_model),
        *(("--model-timeout-ms", name) for name in sorted(settings.model_timeout_ms)),
        *(("--model-versions", name) for name in sorted(settings.model_versions)),
        *(("--model-settings", name) for name in sorted(config.names) if not may_come),
    ):
        if name is not None and name not in names:
            raise ModelSelectionError(
                f"{flag}: there is no model {name!r}; available: {', '.join(sorted(names))}"
            )
    return files


class _Loading:
    """Loads files one by one; those that can't be loaded are logged and left out.

    With strict settings all must load; in any case at least one must, as must `required`, the one
    that answers requests that name no model.
    """

    def __init__(self, settings: Settings, loader: ModelLoader, required: ModelFile | None) -> None:
        self.loaded: dict[ModelFile, LoadedModel] = {}
        self.broken: list[BrokenModel] = []
        self._settings, self._loader, self._required = settings, loader, required
        self._tried: set[ModelFile] = set()

    def choose(self, files: Sequence[ModelFile]) -> ParallelismChoice:
        """Choose the parallelism with the first file that can be loaded, and load that file.

        Raises the first file's error if none can be loaded.
        """
        first_error: ModelFileError | None = None
        for file in files:
            try:
                chosen = self._loader.choose(file, len(files))
                self._load(file, chosen)
            except ModelFileError as error:
                self._note(file, error)
                forget_frames(error, logged=True)  # they hold the failed session
                first_error = first_error or error
                continue
            return chosen.won.parallelism
        assert first_error is not None  # noqa: S101 - `discover` gives at least one file
        raise first_error

    def load_what_fits(
        self, files: Sequence[ModelFile], room: Room, config: ModelConfig
    ) -> list[EvictedModel]:
        """Load files, pinned ones and those to compare first; return those without room.

        Raises `ModelSelectionError` if there is none for a pinned one, or for the first.
        """
        for file, model in self.loaded.items():  # which was needed to begin with
            if lack := room.lack(Newcomer(file.name, file.version, model.memory), []):
                raise ModelSelectionError(f"{file.path}: has no room: {lack}")
        options = {file: _options(config, file) for file in files}
        evicted = []

        def order(file: ModelFile) -> tuple[bool, bool]:
            return not options[file].pinned, file.name not in self._settings.rollout

        for file in sorted(files, key=order):
            new = Newcomer.of(file)
            residents = [Newcomer(f.name, f.version, m.memory) for f, m in self.loaded.items()]
            lack = room.lack(new, residents)
            if file in self._tried or not lack:
                self.load(file)
                continue
            if options[file].pinned:
                raise ModelSelectionError(f"{file.path}: is pinned, but has no room: {lack}")
            _log.info("model_has_no_room", model=file.name, version=file.version, detail=lack)
            evicted.append(EvictedModel(file, stamp_of(file), new.memory, options[file].policy))
        return evicted

    def load(self, file: ModelFile) -> None:
        """Load a file, unless this has been tried before."""
        if file in self._tried:
            return
        try:
            self._load(file)
        except ModelFileError as error:
            self._note(file, error)

    def _load(self, file: ModelFile, chosen: Chosen | None = None) -> None:
        loaded = self._loader.open(file, chosen)
        self._tried.add(file)
        self.loaded[file] = loaded

    def _note(self, file: ModelFile, error: ModelFileError) -> None:
        """Record and log a file that can't be loaded; raise its error if the file is required."""
        if self._settings.strict_models or file == self._required:
            raise error
        self._tried.add(file)
        _log.error(
            "model_broken",
            model=file.name,
            version=file.version,
            path=str(file.path),
            detail=str(error),
        )
        self.broken.append(
            BrokenModel(file.name, file.version, reason_for_clients(error, file.path))
        )


def _options(config: ModelConfig, file: ModelFile) -> ModelSettings:
    """Return a file's settings; none if they are wrong, since the model is then broken."""
    try:
        return config.of(file)
    except ModelFileError:
        return ModelSettings()


def _policies(config: ModelConfig, files: Sequence[ModelFile]) -> dict[str, VersionPolicy]:
    """Return which versions answer, by model, where that is set.

    Raises `ModelSelectionError` if one of them has no file.
    """
    found: dict[str, VersionPolicy] = {}
    for file in files:
        policy = _options(config, file).policy
        if policy is None:
            continue
        found[file.name] = policy
        there = sorted(each.version for each in files if each.name == file.name)
        if missing := sorted(policy.shares.keys() - set(there)):
            raise ModelSelectionError(
                f"model {file.name} is to be answered by version {missing[0]} (--model-versions or "
                f"its settings), which has no file; available: {', '.join(map(str, there))}"
            )
    return found


def _first_asked_for(
    files: Sequence[ModelFile], default: str | None, policies: Mapping[str, VersionPolicy]
) -> ModelFile:
    """Return the file that answers most requests for the default model, or for the first."""
    name = default or files[0].name
    versions = {file.version: file for file in files if file.name == name}
    shares = policies.get(name, VersionPolicy()).of(versions)
    return versions[max(shares, key=lambda version: (shares[version], version))]


def onnx_opener(settings: Settings) -> OnnxOpener:
    """Return an opener of model files with ONNX Runtime, configured by the settings."""
    options = EngineOptions(settings.device_id, settings.precision, settings.cuda_graphs)
    if settings.runners:
        options = replace(options, batches=settings.runners)
    return OnnxOpener(settings.provider, options)
