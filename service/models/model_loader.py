"""Opens a model file as the settings specify, and creates a served model from it."""

from __future__ import annotations

from functools import partial
from typing import Any

import structlog

from service.batching.plan import DeviceLoad
from service.contract import ModelContract, parse_contract
from service.engine.base import Engine, Opener
from service.errors import ModelFileError
from service.metrics import Metrics
from service.models.files import ModelFile
from service.models.model import LoadedModel, ServedModel
from service.settings import Settings
from service.tuning.cache import ProfileCache
from service.tuning.fingerprint import fingerprint_of
from service.tuning.profile import Profile

_log = structlog.get_logger(__name__)


class ModelLoader:
    """Loads single models, at start-up and while others are being served."""

    def __init__(
        self, settings: Settings, metrics: Metrics, opener: Opener, cache: ProfileCache
    ) -> None:
        self.opener, self.cache = opener, cache
        self._settings, self._metrics = settings, metrics
        self.threads = 0
        """Threads of each session, once chosen."""
        self.device = DeviceLoad()
        """The device in whose plans the models are included, once known."""

    def open(self, file: ModelFile, engine: Engine | None = None) -> LoadedModel:
        """Open a model file, unless its `engine` is given, and read its contract.

        Raises `ModelFileError`, after closing the engine.
        """
        open_engine = partial(self.opener.open, file.path, intra_op_threads=self.threads)
        engine = engine or open_engine()
        try:
            contract = parse_contract(engine.metadata, file=str(file.path))
            _check_agreement(file, engine, contract, self._settings)
        except ModelFileError:
            engine.close()
            raise
        return LoadedModel(
            file,
            engine,
            contract,
            # On the same provider: plans, threads and metrics depend on it, and "auto" would take a
            # failing GPU for a missing one.
            reopen=partial(open_engine, provider=engine.provider.name),
            profile=Profile(self.cache, partial(self._fingerprint, file)),
        )

    def _fingerprint(self, file: ModelFile, engine: Engine) -> dict[str, Any] | None:
        return fingerprint_of(
            file.path,
            engine.provider,
            device_id=self._settings.device_id,
            tf32=engine.tf32,
            max_batch=self._settings.max_batch,
            intra_op_threads=self.threads,
            **engine.attested,
        )

    def serve(self, loaded: LoadedModel) -> ServedModel:
        """Create a served model, which is included in its device's plans."""
        file = loaded.file
        _log.info(
            "model_loaded",
            model=file.name,
            version=file.version,
            path=str(file.path),
            provider=loaded.engine.provider.name,
        )
        metrics = self._metrics.for_model(file.name, file.version)
        return ServedModel(loaded, metrics, self._settings, self.device)

    def forget(self, name: str, version: int) -> None:
        """Remove a model's metrics."""
        self._metrics.forget_model(name, version)


def _check_agreement(
    file: ModelFile, engine: Engine, contract: ModelContract, settings: Settings
) -> None:
    """Raise `ModelFileError` if the graph's sizes differ from the contract's."""
    if engine.classes not in (None, len(contract.labels)):
        raise ModelFileError(
            f"{file.path}: returns {engine.classes} probabilities, "
            f"but its contract has {len(contract.labels)} labels"
        )
    batch, height, width = engine.input_shape
    crop = contract.preprocessing.crop
    if height not in (None, crop) or width not in (None, crop):
        raise ModelFileError(
            f"{file.path}: takes images of {width or 'any'} x {height or 'any'} pixels (width x "
            f"height), but its contract crops to {crop} x {crop}"
        )
    if batch is not None and not batch == settings.max_batch == 1:
        way_out = "; `--max-batch 1` serves it" if batch == 1 else ""
        raise ModelFileError(
            f"{file.path}: takes batches of exactly {batch}, but batch sizes vary with the number "
            f"of waiting images{way_out}"
        )
