"""Opens model files with ONNX Runtime, on the provider that really works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import onnxruntime
import structlog

from service.contract import ModelContract
from service.engine.base import Engine, ProviderOpener
from service.engine.providers import (
    AUTO,
    EngineOptions,
    Provider,
    candidates,
    make_openers,
    may_beat_cpu,
    rounding,
)
from service.engine.sessions import ERRORS_ONLY
from service.errors import DeviceLostError, ModelFileError, ProviderError, SessionFailedError

_log = structlog.get_logger(__name__)


class _How(TypedDict):
    intra_op_threads: int
    exact: bool


class OnnxOpener:
    """Opens model files on the provider that was asked for; `auto` takes the first that works."""

    def __init__(
        self,
        provider: str = AUTO,
        options: EngineOptions | None = None,
        openers: Mapping[str, ProviderOpener] | None = None,
    ) -> None:
        """Make one; `openers` are for providers by name, in the place of their own."""
        self.provider = provider
        self._options = options or EngineOptions()
        # All from the start, since any thread may go through them while another opens a file.
        self._openers = {**make_openers(self._options), **(openers or {})}

    def expected(self) -> Provider:
        """Return the provider that models should run on here; only an engine knows if it does."""
        tried = candidates(self.provider)
        return next((one for one in tried if one.problem() is None), tried[-1])

    def open(
        self,
        path: Path,
        *,
        intra_op_threads: int,
        provider: str | None = None,
        exact: bool = False,
    ) -> Engine:
        """Open a model file; see `load_engine`.

        Without a `provider`, as at the start, whatever fails on a device is a `ProviderError`.
        """
        if not path.is_file():
            raise ModelFileError(f"{path}: no such file")
        # Beside the sessions' own level: some of its lines belong to no session.
        onnxruntime.set_default_logger_severity(ERRORS_ONLY)
        *preferred, last = candidates(provider or self.provider)
        how: _How = {"intra_op_threads": intra_op_threads, "exact": exact}
        engine, refusals = self._open_on_first(preferred, path, how)
        if engine is None:
            try:
                engine = self._openers[last.name].open(path, **how)
            except (DeviceLostError, SessionFailedError) as error:
                if provider is not None:
                    raise
                raise last.failure(path, error) from error
        for refusal in refusals:
            _log.warning(f"serving_on_{engine.provider.name}", detail=refusal)
        return engine

    def rivals(self, contract: ModelContract) -> Sequence[Provider]:
        """List what may beat the CPU's own provider at a file; tells of one that is broken."""
        found: list[Provider] = []
        if self.provider != AUTO:
            return found
        asked = self._options.precision
        for provider in may_beat_cpu(contract, asked):
            if problem := provider.find_problem():
                _log.warning(f"serving_without_{provider.name}", detail=problem)
            elif contract.precision == "int8" or rounding(provider, contract, asked):
                found.append(provider)
        return found

    def watch(self, on_lost: Callable[[DeviceLostError], None]) -> None:
        """Have a loss of a device told, once, on the thread that met it."""
        for opener in self._openers.values():
            opener.watch(on_lost)

    def trouble(self, stuck_after_s: float) -> dict[str, str]:
        """Say what only a new process mends."""
        found: dict[str, str] = {}
        for opener in self._openers.values():
            found |= opener.trouble(stuck_after_s)
        return found

    def devices(self) -> list[dict[str, Any]]:
        """Describe the devices in use."""
        return [device for opener in self._openers.values() for device in opener.devices()]

    def close(self, timeout_s: float) -> None:
        """End what the devices have for themselves."""
        for opener in self._openers.values():
            opener.close(timeout_s)

    def _open_on_first(
        self, providers: Sequence[Provider], path: Path, how: _How
    ) -> tuple[Engine | None, list[str]]:
        """Open a file on the first that works, if one does; say why others of this build do not.

        Raises `ProviderError` when a device was lost that models run on: they would never answer.
        """
        refusals: list[str] = []
        for provider in providers:
            opener = self._openers[provider.name]
            try:
                return opener.open(path, **how), refusals
            except (ProviderError, DeviceLostError, SessionFailedError) as error:
                if opener.lost is not None:
                    raise provider.failure(path, opener.lost) from error
                if provider.is_installed():
                    refusals.append(str(error))
        return None, refusals


def load_engine(
    path: Path,
    *,
    provider: str = AUTO,
    intra_op_threads: int = 0,
    options: EngineOptions | None = None,
) -> Engine:
    """Open a model file on the provider asked for, by an engine that shares nothing with others.

    `intra_op_threads` 0 means one for each CPU of this process, where the CPU computes.

    Raises `ModelFileError` for a file that is no model of the expected inputs and outputs, and
    `ProviderError` when a provider was asked for and the session does not run on it.
    """
    alone = replace(options or EngineOptions(), shared=False)
    return OnnxOpener(provider, alone).open(path, intra_op_threads=intra_op_threads)
