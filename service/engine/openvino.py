"""Runs a model file on the CPU with OpenVINO, in a precision that is requested and verified."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from service.contract import INPUT_NAME, Faster, parse_contract
from service.cpus import cpu_count
from service.engine import openvino_library
from service.engine.base import Outputs, Pixels, ProviderOpener, stacked
from service.engine.bound import Session
from service.engine.providers import OPENVINO, rounding
from service.engine.sessions import open_to_read, stated_classes, stated_input
from service.errors import ProviderError

_ROUNDED: Mapping[str, Faster] = {"bf16": "bf16", "f16": "fp16"}
"""Layer precisions of compiled models that are less exact than float32."""


class OpenVinoEngine:
    """A compiled model file. Thread-safe: each batch has its own inference request."""

    provider = OPENVINO
    sizes: Sequence[int] = ()

    def __init__(
        self,
        compiled: Any,
        described: Session,
        rounds_to: Faster | None,
        attested: Mapping[str, Any],
    ) -> None:
        self._compiled = compiled
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.metadata: Mapping[str, str] = dict(described.get_modelmeta().custom_metadata_map)
        self.classes, self.input_shape = stated_classes(described), stated_input(described)
        self.rounds_to, self.attested = rounds_to, attested

    def prepare(self, sizes: Sequence[int]) -> None:
        """Do nothing: batches of any size run as they are."""

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> Outputs:
        """Return the named outputs; only these are copied."""
        with self._request() as request:
            request.infer({INPUT_NAME: stacked(pixels)}, share_inputs=True, share_outputs=True)
            # The next batch of this request overwrites the same memory.
            return {name: np.array(request.get_tensor(name).data) for name in outputs}

    def close(self) -> None:
        """Drop the model and its requests; may be called again."""
        self.__dict__.pop("_compiled", None)
        self._idle = queue.SimpleQueue()

    @contextmanager
    def _request(self) -> Iterator[Any]:
        idle, compiled = self._idle, self._compiled
        try:
            request = idle.get_nowait()
        except queue.Empty:
            request = compiled.create_infer_request()
        try:
            yield request
        finally:
            idle.put(request)


class OpenVinoOpener(ProviderOpener):
    """Opens model files with OpenVINO on the CPU."""

    def open(self, path: Path, *, intra_op_threads: int, exact: bool = False) -> OpenVinoEngine:
        """Compile a model file; 0 threads mean one per CPU of this process.

        Raises `ModelFileError`, or `ProviderError` if it fails or computes in another precision.
        """
        described = open_to_read(path)
        if problem := OPENVINO.problem():
            raise ProviderError(problem)
        metadata = described.get_modelmeta().custom_metadata_map
        contract = parse_contract(metadata, file=str(path))
        asked = rounding(OPENVINO, contract, "exact" if exact else self.options.precision)
        cpus = cpu_count()
        threads = min(intra_op_threads or cpus, cpus)
        # ONNX Runtime's runners share a session's helper threads. Here each concurrent batch has
        # its own stream, and the streams together use all CPUs.
        streams = cpus - threads + 1
        given = {
            **OPENVINO.options(self.options, contract.precision, asked),
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": cpus,
        }
        compiled = _compiled(path, given)
        rounded = _rounded_layers(compiled)
        if others := rounded.keys() - {asked}:
            raise ProviderError(
                f"{path}: OpenVINO computes in {' and '.join(others)}, although "
                f"{asked or 'the precision of the file'} was requested"
            )
        attested = {
            "precision_asked": given["INFERENCE_PRECISION_HINT"],
            "layers_rounded": rounded.total(),
            "streams": compiled.get_property("NUM_STREAMS"),
            "threads": compiled.get_property("INFERENCE_NUM_THREADS"),
        }
        return OpenVinoEngine(compiled, described, asked if rounded else None, attested)


def _compiled(path: Path, given: Mapping[str, Any]) -> Any:
    """Compile a file; raises `ProviderError`.

    OpenVINO's cache of compiled models is not used. Compiling takes 0.1 s, also for a ResNet-50,
    and reading what was compiled as long; and what is damaged there gives other answers.
    """
    core = openvino_library.core()
    try:
        return core.compile_model(core.read_model(str(path)), OPENVINO.runtime_name, given)
    except Exception as error:  # its errors have no common base class
        raise OPENVINO.failure(path, error) from error


def _rounded_layers(compiled: Any) -> Counter[Faster]:
    """Count the layers that actually run in a precision below float32."""
    layers = compiled.get_runtime_model().get_ops()
    precisions = (str(layer.get_rt_info()["runtimePrecision"].astype(str)) for layer in layers)
    return Counter(_ROUNDED[precision] for precision in precisions if precision in _ROUNDED)
