"""Loads the models that the settings ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from service.batching.decode_pool import DecodePool
from service.batching.plan import DeviceLoad
from service.engine.base import Engine, Opener
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
from service.tuning.autotune import ParallelismChoice, autotune
from service.tuning.cache import ProfileCache
from service.tuning.measure import ReopenableEngine

_log = structlog.get_logger(__name__)


def load_repository(
    settings: Settings,
    metrics: Metrics,
    decode_pool: DecodePool | None = None,
    opener: Opener | None = None,
) -> Repository:
    """Load every model that the settings ask for; each is "warming" until `warm_up` has run.

    `opener` opens them in the place of ONNX Runtime, as a simulated device does. A file that is
    broken does not keep the others from being served, see `_Loading`.

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
    # A GPU computes one batch at a time, whatever else is got ready beside it.
    device = DeviceLoad(1 if provider.own_device else choice.parallelism.runners, decode_pool)
    loader.device = device
    served = [loader.serve(loading.loaded[file]) for file in files if file in loading.loaded]
    for model in loading.broken:
        metrics.show_broken(model.name, model.version)
    give_back_freed()
    models = ModelSet(served, loading.broken, default, settings.strict_models)
    return Repository(models, device, decode_pool, choice, settings.stuck_after_s, loader)


def _asked_for(settings: Settings) -> list[ModelFile]:
    """Find the files that the settings ask for; logs what of a folder can't be one."""
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
                f"{flag}: there is no {name!r}; served are: {', '.join(sorted(names))}"
            )
    return files


class _Loading:
    """Loads files one by one; those that can't be are told and left out.

    All must load when the start is to be strict, and always at least one, and the one that answers
    requests that name none (`required`).
    """

    def __init__(self, settings: Settings, loader: ModelLoader, required: ModelFile | None) -> None:
        self.loaded: dict[ModelFile, LoadedModel] = {}
        self.broken: list[BrokenModel] = []
        self._settings, self._loader, self._required = settings, loader, required
        self._tried: set[ModelFile] = set()

    def choose(self, files: Sequence[ModelFile]) -> ParallelismChoice:
        """Choose the parallelism by the first file that can be loaded, and load that.

        Raises the first file's error when none can.
        """
        first_error: ModelFileError | None = None
        opener = self._loader.opener
        for file in files:
            engines = ReopenableEngine(opener, file.path)
            try:
                choice = autotune(
                    file.path, opener, engines, self._settings,
                    models=len(files), cache=self._loader.cache,
                )  # fmt: skip
                self._loader.threads = threads = choice.parallelism.intra_op_threads
                self._load(file, engines.with_threads(threads))
            except ModelFileError as error:
                self._note(file, error)
                engines.close()
                forget_frames(error, logged=True)  # which hold the session that it failed with
                first_error = first_error or error
                continue
            return choice
        assert first_error is not None  # noqa: S101 - `discover` gives at least one file
        raise first_error

    def load(self, file: ModelFile) -> None:
        """Load a file, unless that was tried before."""
        if file in self._tried:
            return
        try:
            self._load(file)
        except ModelFileError as error:
            self._note(file, error)

    def _load(self, file: ModelFile, engine: Engine | None = None) -> None:
        loaded = self._loader.open(file, engine)
        self._tried.add(file)
        self.loaded[file] = loaded

    def _note(self, file: ModelFile, error: ModelFileError) -> None:
        """Tell of a file that can't be loaded; raises its error where it has to be."""
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
    """Say what is wrong with a file without saying where it lies."""
    reason = str(error).removeprefix(f"{path}: ")
    return reason.replace(str(path), path.name).replace(f"{path.parent}/", "")


def _first_asked_for(files: Sequence[ModelFile], default: str | None) -> ModelFile:
    """Return the default model's highest version; without a default, that of the first model."""
    name = default or files[0].name
    return max((file for file in files if file.name == name), key=lambda file: file.version)


def onnx_opener(settings: Settings) -> OnnxOpener:
    """Make what opens model files with ONNX Runtime, as the settings ask."""
    options = EngineOptions(settings.device_id, settings.tf32, settings.cuda_graphs)
    if settings.runners:
        options = replace(options, batches=settings.runners)
    return OnnxOpener(settings.provider, options)
