"""Opens model files on a provider that actually works."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
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
    PrecisionChoice,
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
    """Opens model files on the requested provider; `auto` uses the first that works."""

    def __init__(
        self,
        provider: str = AUTO,
        options: EngineOptions | None = None,
        openers: Mapping[str, ProviderOpener] | None = None,
    ) -> None:
        """Create the providers' openers; `openers`, by provider name, replace some of them."""
        self.provider = provider
        self._options = options or EngineOptions()
        self._exact = False
        # All at once, since any thread may iterate over them while another opens a file.
        self._openers = {**make_openers(self._options), **(openers or {})}

    def narrowed(self, provider: str | None, *, exact: bool) -> OnnxOpener:
        """Return an opener on the same devices for a model with a provider or precision of its own.

        Without a `provider`, it is this opener's. With `exact`, nothing is rounded.
        """
        other = copy(self)
        other.provider, other._exact = provider or self.provider, exact or self._exact
        return other

    def expected(self) -> Provider:
        """Return the provider expected to be used here; only an open engine knows for sure."""
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

        Without a `provider`, as at start-up, a device's errors are raised as `ProviderError`.
        """
        if not path.is_file():
            raise ModelFileError(f"{path}: no such file")
        # In addition to the sessions' own level: some log lines belong to no session.
        onnxruntime.set_default_logger_severity(ERRORS_ONLY)
        *preferred, last = candidates(provider or self.provider)
        how: _How = {"intra_op_threads": intra_op_threads, "exact": exact or self._exact}
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
        """List the providers to measure against the CPU's own for a file; log broken ones."""
        found: list[Provider] = []
        if self.provider != AUTO:
            return found
        asked: PrecisionChoice = "exact" if self._exact else self._options.precision
        for provider in may_beat_cpu(contract, asked):
            if problem := provider.find_problem():
                _log.warning(f"serving_without_{provider.name}", detail=problem)
            elif contract.precision == "int8" or rounding(provider, contract, asked):
                found.append(provider)
        return found

    def watch(self, on_lost: Callable[[DeviceLostError], None]) -> None:
        """Set a callback for the loss of a device; called once, on the thread that noticed."""
        for opener in self._openers.values():
            opener.watch(on_lost)

    def trouble(self, stuck_after_s: float) -> dict[str, str]:
        """Return the problems that only a restart fixes, by device."""
        found: dict[str, str] = {}
        for opener in self._openers.values():
            found |= opener.trouble(stuck_after_s)
        return found

    def devices(self) -> list[dict[str, Any]]:
        """Describe the devices in use."""
        return [device for opener in self._openers.values() for device in opener.devices()]

    def close(self, timeout_s: float) -> None:
        """Stop the devices' threads."""
        for opener in self._openers.values():
            opener.close(timeout_s)

    def _open_on_first(
        self, providers: Sequence[Provider], path: Path, how: _How
    ) -> tuple[Engine | None, list[str]]:
        """Open a file on the first provider that works; return why installed ones before it failed.

        Raises `ProviderError` if a device in use was lost: its models would never answer.
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
    """Open a model file on the requested provider, sharing nothing with other engines.

    With `intra_op_threads` 0, the CPU uses one thread per CPU of this process.

    Raises `ModelFileError` for a file without the expected inputs and outputs, and `ProviderError`
    if it does not run on the requested provider.
    """
    alone = replace(options or EngineOptions(), shared=False)
    return OnnxOpener(provider, alone).open(path, intra_op_threads=intra_op_threads)
