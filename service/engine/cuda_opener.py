"""Opens model files on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime

from service.contract import PROBABILITIES, ModelContract, parse_contract
from service.engine.base import ProviderOpener
from service.engine.bound import Session
from service.engine.cuda import CudaEngine, GpuModel
from service.engine.gpu import Gpu
from service.engine.providers import (
    CUDA,
    EngineOptions,
    PrecisionChoice,
    on_tensor_cores,
    rounding,
)
from service.engine.sessions import (
    open_session,
    open_to_read,
    session_options,
    stated_classes,
    stated_input,
)
from service.errors import DeviceLostError, ModelFileError, ProviderError, SessionFailedError

_DEVICE = "cuda"  # ONNX Runtime's name for memory on the GPU
_END_S = 10.0


class CudaOpener(ProviderOpener):
    """Opens model files on one GPU; they all share its thread."""

    def __init__(self, options: EngineOptions, gpu: Gpu | None = None) -> None:
        super().__init__(options)
        self._gpu, self._in_use = gpu, False

    @property
    def lost(self) -> DeviceLostError | None:
        """The error with which the GPU was lost; None if it is not, or no model runs on it."""
        return self._gpu.lost if self._gpu is not None and self._in_use else None

    def open(self, path: Path, *, intra_op_threads: int, exact: bool = False) -> CudaEngine:
        """Open a model file; the threads are for operators that CUDA leaves to the CPU.

        Raises `ProviderError` with the reason if it does not actually run on CUDA, and
        `DeviceLostError` or `SessionFailedError` if the GPU fails meanwhile.
        """
        # Checked first, since ONNX Runtime would print several lines about it.
        if problem := CUDA.problem():
            raise ProviderError(problem)
        onnxruntime.preload_dlls(directory="")  # from the installed nvidia wheels
        model, contract = _described(path, "exact" if exact else self.options.precision)
        self._gpu = gpu = self._gpu or Gpu(self.options.device_id)
        threads = intra_op_threads or 1
        try:
            engine = CudaEngine(
                gpu,
                model,
                partial(_cuda_session, path, contract, model, self.options, gpu, threads),
                graphs=self.options.graphs == "auto",
                batches=self.options.batches,
                owns_gpu=not self.options.shared,
                device=_DEVICE,
            )
        except Exception as error:  # ONNX Runtime's errors have no common base class
            self._forget_unused_gpu()
            if isinstance(error, (ProviderError, DeviceLostError, SessionFailedError)):
                raise
            raise CUDA.failure(path, error) from error
        self._in_use = True
        return engine

    def watch(self, on_lost: Callable[[DeviceLostError], None]) -> None:
        """Set a callback for the loss of the GPU; called once, on the thread that noticed."""
        if self._gpu is not None:
            self._gpu.watch(on_lost)

    def trouble(self, stuck_after_s: float) -> dict[str, str]:
        """Return the problem that only a restart fixes, by the GPU's name."""
        trouble = self._gpu.trouble(stuck_after_s) if self._gpu is not None else None
        return {f"gpu {self.options.device_id}": trouble} if trouble else {}

    def devices(self) -> list[dict[str, Any]]:
        """Describe the GPU, if one is in use; the memory used includes other processes."""
        if self._gpu is None or self._gpu.memory is None:
            return []
        memory = self._gpu.memory
        return [
            {
                "device_id": self.options.device_id,
                "name": self._gpu.name,
                "memory_used_bytes": memory.used,
                "memory_total_bytes": memory.total,
            }
        ]

    def close(self, timeout_s: float) -> None:
        """Stop the GPU's thread."""
        if self._gpu is not None and self._gpu.lost is None:
            self._gpu.close(timeout_s)

    def _forget_unused_gpu(self) -> None:
        """Stop a GPU that no model runs on, so that it is not monitored."""
        if self._gpu is not None and not self._in_use:
            self._gpu.close(_END_S)
            self._gpu = None


def _described(path: Path, asked: PrecisionChoice) -> tuple[GpuModel, ModelContract]:
    """Read a file's description and contract, which decide how it is opened on a GPU."""
    session = open_to_read(path)
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    contract = parse_contract(metadata, file=str(path))
    there = {node.name for node in session.get_outputs()}
    if missing := [name for name in contract.optional_outputs if name not in there]:
        raise ModelFileError(f"{path}: its contract names {missing[0]}, which its graph lacks")
    rounds_to = rounding(CUDA, contract, asked)
    model = GpuModel(
        name=contract.name,
        metadata=metadata,
        classes=stated_classes(session),
        input_shape=stated_input(session),
        image_size=contract.preprocessing.input_size,
        outputs=(PROBABILITIES, *contract.optional_outputs),
        layout="NHWC" if on_tensor_cores(contract.precision, rounds_to) else "NCHW",
        rounds_to=rounds_to,
    )
    return model, contract


def _cuda_session(
    path: Path,
    contract: ModelContract,
    model: GpuModel,
    options: EngineOptions,
    gpu: Gpu,
    threads: int,
    graphs: bool,
) -> Session:
    cuda = {
        **CUDA.options(options, contract.precision, model.rounds_to),
        "enable_cuda_graph": int(graphs),
    }
    session = open_session(path, session_options(threads), CUDA, cuda)
    gpu.load_runtime()
    return session
