"""Opens a model file as the settings specify, and creates a served model from it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from service.batching.plan import DeviceLoad
from service.calibration import parse_calibration
from service.contract import ModelContract, parse_contract
from service.engine.base import Engine, Opener
from service.errors import ModelFileError
from service.metrics import Metrics
from service.models.files import ModelFile
from service.models.model import LoadedModel, ServedModel
from service.models.model_settings import ModelConfig, ModelSettings
from service.models.stamps import Stamp, memory_of, stamp_of
from service.settings import Settings
from service.tuning.cache import ProfileCache
from service.tuning.contest import Won, fastest
from service.tuning.fingerprint import fingerprint_of
from service.tuning.parallelism import Parallelism
from service.tuning.profile import Profile

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """A file that has been opened, and as what it was opened."""

    won: Won
    stamp: Stamp


class ModelLoader:
    """Loads single models, at start-up and while others are being served."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        opener: Opener,
        cache: ProfileCache,
        config: ModelConfig | None = None,
    ) -> None:
        self.opener, self.cache = opener, cache
        self.config = config or ModelConfig(settings)
        self._settings, self._metrics = settings, metrics
        self.parallelism = Parallelism(0, 0)
        """Of all models, once chosen."""
        self.device = DeviceLoad()
        """The device in whose plans the models are included, once known."""

    def choose(self, file: ModelFile, models: int) -> Chosen:
        """Open a file on its fastest provider, and use its parallelism for all `models`.

        Raises `ModelFileError`.
        """
        stamp = stamp_of(file)
        options = self.config.of(file)
        won = fastest(
            file.path,
            self._opener_for(options),
            options.applied_to(self._settings),
            models=models,
            cache=self.cache,
        )
        self.parallelism = won.parallelism.parallelism
        return Chosen(won, stamp)

    def open(self, file: ModelFile, chosen: Chosen | None = None) -> LoadedModel:
        """Open a model file on its fastest provider, unless it is `chosen`, and read its contract.

        Raises `ModelFileError`, after closing the engine.
        """
        stamp = chosen.stamp if chosen else stamp_of(file)
        options = self.config.of(file)
        settings, opener = options.applied_to(self._settings), self._opener_for(options)
        won = chosen.won if chosen else self._fastest_in_parallelism(file, settings, opener)
        engine = won.engine
        exactly = threading.Event()  # set once it must not round any more

        def reopen() -> Engine:
            # On the same provider: plans, threads and metrics depend on it, and "auto" would take a
            # failing GPU for a missing one.
            return opener.open(
                file.path,
                intra_op_threads=won.parallelism.parallelism.intra_op_threads,
                provider=engine.provider.name,
                exact=exactly.is_set(),
            )

        def reopen_exactly() -> Engine:
            exactly.set()
            return reopen()

        try:
            contract = parse_contract(engine.metadata, file=str(file.path))
            calibration = parse_calibration(engine.metadata, contract, file=str(file.path))
            _check_agreement(file, engine, contract, settings)
            self._check_options(file, engine, contract, options)
            contract = _with_thresholds(file, contract, options)
            if self._settings.tf32:
                _check_tf32(file, engine, contract)
            _check_unchanged(file, stamp)
        except ModelFileError:
            engine.close()
            raise
        return LoadedModel(
            file,
            engine,
            contract,
            calibration,
            reopen=reopen,
            reopen_exactly=reopen_exactly,
            profile=Profile(self.cache, partial(self._fingerprint, file, settings)),
            settings=settings,
            options=options,
            stamp=stamp,
            memory=memory_of(file, contract),
            faster_by=won.faster_by,
            why=won.why,
        )

    def _fastest_in_parallelism(self, file: ModelFile, settings: Settings, opener: Opener) -> Won:
        """Open a file with what computes it fastest as the models beside it run."""
        chosen = {
            "runners": self.parallelism.runners,
            "intra_op_threads": self.parallelism.intra_op_threads,
        }
        settings = settings.model_copy(update=chosen)
        return fastest(file.path, opener, settings, models=1, cache=self.cache)

    def _opener_for(self, options: ModelSettings) -> Opener:
        if options.provider is None and options.precision is None:
            return self.opener
        return self.opener.narrowed(options.provider, exact=options.precision == "exact")

    def _check_options(
        self, file: ModelFile, engine: Engine, contract: ModelContract, options: ModelSettings
    ) -> None:
        """Raise `ModelFileError` for settings of this model that can't be followed."""
        classes, provider = len(contract.labels), engine.provider
        if options.top_k is not None and options.top_k > classes:
            raise ModelFileError(
                f"{file.path}: its settings have top_k {options.top_k}, but it has "
                f"{classes} classes"
            )
        expected = self.opener.expected()
        if options.provider is not None and provider.own_device != expected.own_device:
            raise ModelFileError(
                f"{file.path}: its settings ask for {provider.name}, but the other models are "
                f"served on {expected.name}; a device is shared by all models or by none"
            )

    def _fingerprint(
        self, file: ModelFile, settings: Settings, engine: Engine
    ) -> dict[str, Any] | None:
        return fingerprint_of(
            file.path,
            engine.provider,
            device_id=settings.device_id,
            rounds_to=engine.rounds_to,
            max_batch=settings.max_batch,
            intra_op_threads=self.parallelism.intra_op_threads,
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
            computed_in=loaded.engine.rounds_to or loaded.contract.precision,
            **({"faster_by": loaded.faster_by} if loaded.faster_by else {}),
            **({"why": loaded.why} if loaded.why else {}),
        )
        metrics = self._metrics.for_model(file.name, file.version)
        return ServedModel(loaded, metrics, self.device)

    def forget(self, name: str, version: int) -> None:
        """Remove a model's metrics."""
        self._metrics.forget_model(name, version)


def _check_unchanged(file: ModelFile, stamp: Stamp) -> None:
    """Raise `ModelFileError` if a file was written or replaced since: what was read may be half."""
    if stamp_of(file) != stamp:
        raise ModelFileError(f"{file.path}: changed while it was being read")


def _with_thresholds(
    file: ModelFile, contract: ModelContract, options: ModelSettings
) -> ModelContract:
    """Return the contract with the thresholds of the model's settings, if they have any.

    Raises `ModelFileError` if its labels have none, or not these.
    """
    if options.threshold is None and not options.thresholds:
        return contract
    if contract.multi_label is None:
        raise ModelFileError(
            f"{file.path}: its settings have a threshold, but its labels are not independent"
        )
    known = {label.id for label in contract.labels}
    if unknown := sorted(set(options.thresholds or ()) - known):
        raise ModelFileError(
            f"{file.path}: its settings have a threshold for {', '.join(unknown)}, which is no id "
            "of its labels"
        )
    return contract.model_copy(update={"multi_label": options.rule_for(contract.multi_label)})


def _check_tf32(file: ModelFile, engine: Engine, contract: ModelContract) -> None:
    """Raise `ModelFileError` for a float32 file that a GPU could compute in TF32, but may not."""
    could = contract.precision == "fp32" and "tf32" in engine.provider.faster()
    if could and engine.rounds_to != "tf32":
        raise ModelFileError(
            f"{file.path}: --tf32 was given, but the file does not say how far answers in TF32 "
            f"agree; `resnet-export allow {file.path.name} --precision tf32 --images DIR` measures "
            "it and makes it say so"
        )


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
    expected = contract.preprocessing.input_size
    if height not in (None, expected[0]) or width not in (None, expected[1]):
        raise ModelFileError(
            f"{file.path}: takes images of {width or 'any'} x {height or 'any'} pixels (width x "
            f"height), but its contract crops to {expected[1]} x {expected[0]}"
        )
    if batch is not None and not batch == settings.max_batch == 1:
        way_out = "; `--max-batch 1` serves it" if batch == 1 else ""
        raise ModelFileError(
            f"{file.path}: takes batches of exactly {batch}, but batch sizes vary with the number "
            f"of waiting images{way_out}"
        )
