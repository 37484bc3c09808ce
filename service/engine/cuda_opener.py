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
from service.engine.providers import CUDA, EngineOptions
from service.engine.sessions import (
    open_cpu_session,
    open_session,
    session_options,
    stated_classes,
    stated_input,
)
from service.errors import DeviceLostError, ModelFileError, ProviderError, SessionFailedError

_DEVICE = "cuda"  # ONNX Runtime's name of where buffers lie
_END_S = 10.0


class CudaOpener(ProviderOpener):
    """Opens model files on one GPU, of which all share the one thread."""

    def __init__(self, options: EngineOptions, gpu: Gpu | None = None) -> None:
        super().__init__(options)
        self._gpu, self._in_use = gpu, False

    @property
    def lost(self) -> DeviceLostError | None:
        """The loss of the GPU, if models run on it."""
        return self._gpu.lost if self._gpu is not None and self._in_use else None

    def open(self, path: Path, *, intra_op_threads: int) -> CudaEngine:
        """Open an engine that really runs on CUDA; the threads are for what a graph leaves the CPU.

        Raises `ProviderError` with the reason otherwise, and on a GPU that others use, too,
        `DeviceLostError` or `SessionFailedError`.
        """
        # Asked first, since ONNX Runtime would print its own account of it in several lines.
        if problem := CUDA.problem():
            raise ProviderError(problem)
        onnxruntime.preload_dlls(directory="")  # from the nvidia wheels beside it
        model, contract = _described(path, tf32=self.options.tf32)
        self._gpu = gpu = self._gpu or Gpu(self.options.device_id)
        threads = intra_op_threads or 1
        try:
            engine = CudaEngine(
                gpu,
                model,
                partial(_cuda_session, path, contract, self.options, gpu, threads),
                graphs=self.options.graphs == "auto",
                batches=self.options.batches,
                owns_gpu=not self.options.shared,
                device=_DEVICE,
            )
        except Exception as error:  # ONNX Runtime's errors share no other root
            self._forget_unused_gpu()
            if isinstance(error, (ProviderError, DeviceLostError, SessionFailedError)):
                raise
            raise CUDA.failure(path, error) from error
        self._in_use = True
        return engine

    def watch(self, on_lost: Callable[[DeviceLostError], None]) -> None:
        """Have a loss of the GPU told, once, on the thread that met it."""
        if self._gpu is not None:
            self._gpu.watch(on_lost)

    def trouble(self, stuck_after_s: float) -> dict[str, str]:
        """Say what only a new process mends."""
        trouble = self._gpu.trouble(stuck_after_s) if self._gpu is not None else None
        return {f"gpu {self.options.device_id}": trouble} if trouble else {}

    def devices(self) -> list[dict[str, Any]]:
        """Describe the GPU, if one is used: its name and memory (by all of its users)."""
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
        """End the GPU's thread."""
        if self._gpu is not None and self._gpu.lost is None:
            self._gpu.close(timeout_s)

    def _forget_unused_gpu(self) -> None:
        """End what nothing runs on, so that nothing of it is watched."""
        if self._gpu is not None and not self._in_use:
            self._gpu.close(_END_S)
            self._gpu = None


def _described(path: Path, *, tf32: bool) -> tuple[GpuModel, ModelContract]:
    """Read what a file says of itself, which decides how it is opened on a GPU.

    By a session on the CPU that optimises nothing; it also tells a file's own faults from CUDA's.
    """
    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = open_cpu_session(path, options)
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    contract = parse_contract(metadata, file=str(path))
    there = {node.name for node in session.get_outputs()}
    if missing := [name for name in contract.optional_outputs if name not in there]:
        raise ModelFileError(f"{path}: its contract names {missing[0]}, which its graph lacks")
    rounds = contract.precision != "fp16" and tf32
    model = GpuModel(
        name=contract.name,
        metadata=metadata,
        classes=stated_classes(session),
        input_shape=stated_input(session),
        side=contract.preprocessing.crop,
        outputs=(PROBABILITIES, *contract.optional_outputs),
        layout="NHWC" if contract.precision == "fp16" or rounds else "NCHW",
        tf32=rounds,
    )
    return model, contract


def _cuda_session(
    path: Path,
    contract: ModelContract,
    options: EngineOptions,
    gpu: Gpu,
    threads: int,
    graphs: bool,
) -> Session:
    cuda = {**CUDA.options(options, contract.precision), "enable_cuda_graph": int(graphs)}
    session = open_session(path, session_options(threads), CUDA, cuda)
    gpu.load_runtime()
    return session
