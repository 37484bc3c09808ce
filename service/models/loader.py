"""Loads the models that the settings specify."""

from __future__ import annotations

from collections.abc import Sequence
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
from service.models.files import BrokenModel, ModelFile, builtin_file, discover
from service.models.model import LoadedModel
from service.models.model_loader import ModelLoader
from service.models.model_set import ModelSet
from service.models.repository import Repository
from service.settings import Settings
from service.tracebacks import forget_frames
from service.tuning.autotune import ParallelismChoice
from service.tuning.cache import ProfileCache
from service.tuning.contest import Won

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
    files = _asked_for(settings)
    names = list(dict.fromkeys(file.name for file in files))
    default = settings.default_model or (names[0] if len(names) == 1 else None)
    decode_pool = decode_pool or DecodePool(1)
    cache = ProfileCache(settings.cache_dir)
    first = _first_asked_for(files, settings.default_model)
    required = first if default else None
    loader = ModelLoader(settings, metrics, opener or onnx_opener(settings), cache)
    loading = _Loading(settings, loader, required)
    choice = loading.choose([first, *(file for file in files if file != first)])
    _log.info("parallelism_chosen", **choice.described())
    for file in files:
        loading.load(file)
    provider = next(iter(loading.loaded.values())).engine.provider
    # A GPU computes one batch at a time, even while the next is being prepared.
    device = DeviceLoad(1 if provider.own_device else choice.parallelism.runners, decode_pool)
    loader.device = device
    served = [loader.serve(loading.loaded[file]) for file in files if file in loading.loaded]
    for model in loading.broken:
        metrics.show_broken(model.name, model.version)
    give_back_freed()
    models = ModelSet(served, loading.broken, default, settings.strict_models)
    return Repository(models, device, decode_pool, choice, settings.stuck_after_s, loader)


def _asked_for(settings: Settings) -> list[ModelFile]:
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
    for flag, name in (
        ("--default-model", settings.default_model),
        *(("--model-timeout-ms", name) for name in sorted(settings.model_timeout_ms)),
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
                won = self._loader.choose(file, len(files))
                self._load(file, won)
            except ModelFileError as error:
                self._note(file, error)
                forget_frames(error, logged=True)  # they hold the failed session
                first_error = first_error or error
                continue
            return won.parallelism
        assert first_error is not None  # noqa: S101 - `discover` gives at least one file
        raise first_error

    def load(self, file: ModelFile) -> None:
        """Load a file, unless this has been tried before."""
        if file in self._tried:
            return
        try:
            self._load(file)
        except ModelFileError as error:
            self._note(file, error)

    def _load(self, file: ModelFile, won: Won | None = None) -> None:
        loaded = self._loader.open(file, won)
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
        self.broken.append(BrokenModel(file.name, file.version, _for_clients(error, file.path)))


def _for_clients(error: ModelFileError, path: Path) -> str:
    """Return a file's error message without the path to the file."""
    reason = str(error).removeprefix(f"{path}: ")
    return reason.replace(str(path), path.name).replace(f"{path.parent}/", "")


def _first_asked_for(files: Sequence[ModelFile], default: str | None) -> ModelFile:
    """Return the highest version of the default model or, without a default, of the first."""
    name = default or files[0].name
    return max((file for file in files if file.name == name), key=lambda file: file.version)


def onnx_opener(settings: Settings) -> OnnxOpener:
    """Return an opener of model files with ONNX Runtime, configured by the settings."""
    options = EngineOptions(settings.device_id, settings.precision, settings.cuda_graphs)
    if settings.runners:
        options = replace(options, batches=settings.runners)
    return OnnxOpener(settings.provider, options)
