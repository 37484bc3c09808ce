"""Runs a model file on the CPU: batches of any size, on any thread, several at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from service.contract import INPUT_NAME, Faster
from service.cpus import cpu_count
from service.engine.base import Outputs, Pixels, ProviderOpener, stacked
from service.engine.bound import Session
from service.engine.providers import CPU
from service.engine.sessions import (
    open_cpu_session,
    session_options,
    stated_classes,
    stated_input,
)


class CpuEngine:
    """One model file in one ONNX Runtime session. Thread-safe, as sessions are."""

    provider = CPU
    rounds_to: Faster | None = None
    sizes: Sequence[int] = ()
    attested: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, session: Session) -> None:
        self._session = session
        self.metadata: Mapping[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.classes, self.input_shape = stated_classes(session), stated_input(session)

    def prepare(self, sizes: Sequence[int]) -> None:
        """Do nothing: batches of any size run as they are."""

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> Outputs:
        """Return the named outputs; only these are copied out of the session."""
        answers = self._session.run(list(outputs), {INPUT_NAME: stacked(pixels)})
        return dict(zip(outputs, answers, strict=True))

    def close(self) -> None:
        """Drop the session, and with it the model's memory; may be called again."""
        self.__dict__.pop("_session", None)


class CpuOpener(ProviderOpener):
    """Opens model files on the CPU."""

    def open(self, path: Path, *, intra_op_threads: int, exact: bool = False) -> CpuEngine:  # noqa: ARG002 - it always is
        """Open a model file; 0 threads mean one per CPU of this process.

        Raises `ModelFileError`.
        """
        options = session_options(intra_op_threads or cpu_count())
        if not self.options.runtime_defaults:
            # Threads that spin while waiting occupy cores that decoding and the event loop need:
            # with spinning, one image on two shared cores took four times as long.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            # The arena and the memory pattern take 60 MB and are no faster if batch sizes vary.
            options.enable_cpu_mem_arena = False
            options.enable_mem_pattern = False
        return CpuEngine(open_cpu_session(path, options))
