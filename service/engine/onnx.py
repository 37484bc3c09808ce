"""Opens model files with ONNX Runtime, on the provider that really works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import structlog

from service.contract import (
    INPUT_NAME,
    PROBABILITIES,
    ModelContract,
    parse_contract,
    way_to_a_model_file,
)
from service.cpus import cpu_count
from service.engine.base import Engine
from service.engine.bound import Session
from service.engine.cpu import CpuEngine, stated_classes, stated_input
from service.engine.cuda import CudaEngine, GpuModel
from service.engine.gpu import Gpu
from service.engine.providers import driver_problem, install_command
from service.errors import (
    DeviceLostError,
    ModelFileError,
    ProviderError,
    SessionFailedError,
    first_line,
)
from service.settings import CudaGraphs, Provider

_log = structlog.get_logger(__name__)

_DEVICE = "cuda"  # ONNX Runtime's name of where buffers lie
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_CUDA_HINT = (
    f"is a GPU visible (`nvidia-smi`), and did {install_command('gpu')} bring the CUDA libraries? "
    "`--provider cpu` serves without a GPU"
)
_END_S = 10.0
_ERRORS_ONLY = 3  # of ONNX Runtime's severities


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """How models are to run on a GPU.

    `batches` are under way at a time: one runs, the others are stacked and copied.
    """

    device_id: int = 0
    tf32: bool = False
    graphs: CudaGraphs = "auto"
    batches: int = 2


@dataclass
class OnnxOpener:
    """Opens model files as the settings ask; all on a GPU share its one thread."""

    provider: Provider = "auto"
    cuda: CudaOptions = field(default_factory=CudaOptions)
    gpu: Gpu | None = None
    _on_gpu: bool = False

    def may_use_gpu(self) -> bool:
        """Return whether a session could run on a GPU here; only the engine knows if it does."""
        return may_run_on_gpu(self.provider)

    def open(
        self, path: Path, *, intra_op_threads: int, provider: Provider | None = None
    ) -> Engine:
        """Open a model file; see `load_engine`.

        Without a `provider`, as at the start, whatever fails on the GPU is a `ProviderError`.
        """
        asked = provider or self.provider
        if self.gpu is None and may_run_on_gpu(asked):
            self.gpu = Gpu(self.cuda.device_id)
        try:
            engine = load_engine(
                path, provider=asked, intra_op_threads=intra_op_threads, cuda=self.cuda,
                gpu=self.gpu,
            )  # fmt: skip
        except (DeviceLostError, SessionFailedError) as error:
            if provider is not None:
                raise
            raise _does_not_load(path, error) from error
        if engine.provider == "cuda":
            self._on_gpu = True
        elif self.gpu is not None and not self._on_gpu:
            self.gpu.close(_END_S)  # nothing runs on it, so nothing of it may be watched
            self.gpu = None
        elif self.gpu is not None and self.gpu.lost is not None:
            raise _does_not_load(path, self.gpu.lost)
        return engine

    def watch(self, on_lost: Callable[[DeviceLostError], None]) -> None:
        """Have a loss of the GPU told, once, on the thread that met it."""
        if self.gpu is not None:
            self.gpu.watch(on_lost)

    def trouble(self, stuck_after_s: float) -> dict[str, str]:
        """Say what only a new process mends."""
        trouble = self.gpu.trouble(stuck_after_s) if self.gpu is not None else None
        return {f"gpu {self.cuda.device_id}": trouble} if trouble else {}

    def devices(self) -> list[dict[str, Any]]:
        """Describe the GPU, if one is used: its name and memory (by all of its users)."""
        if self.gpu is None or self.gpu.memory is None:
            return []
        memory = self.gpu.memory
        return [
            {
                "device_id": self.cuda.device_id,
                "name": self.gpu.name,
                "memory_used_bytes": memory.used,
                "memory_total_bytes": memory.total,
            }
        ]

    def close(self, timeout_s: float) -> None:
        """End the GPU's thread."""
        if self.gpu is not None and self.gpu.lost is None:
            self.gpu.close(timeout_s)


def load_engine(
    path: Path,
    *,
    provider: Provider = "auto",
    intra_op_threads: int = 0,
    runtime_defaults: bool = False,
    cuda: CudaOptions | None = None,
    gpu: Gpu | None = None,
) -> Engine:
    """Open a model file on the provider asked for; "auto" takes CUDA where it works.

    `intra_op_threads` 0 means one for each CPU of this process. With `runtime_defaults`, threads
    that wait spin and memory comes from an arena, as ONNX Runtime has it by itself: for comparison.
    Without a `gpu`, an engine on CUDA has one, and its thread, for itself.

    Raises `ModelFileError` for a file that is no model of the expected inputs and outputs, and
    `ProviderError` when "cuda" was asked for and the session does not run on it.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    # Beside the sessions' own level: some of its lines belong to no session.
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
    if provider != "cpu":
        try:
            return _load_on_cuda(path, cuda or CudaOptions(), gpu, intra_op_threads or 1)
        except (ProviderError, DeviceLostError, SessionFailedError) as error:
            if provider == "cuda":
                raise
            if _CUDA in onnxruntime.get_available_providers():
                _log.warning("serving_on_cpu", detail=str(error))
    options = _options(intra_op_threads or cpu_count())
    if not runtime_defaults:
        # A thread that spins while it waits takes the core that decoding or the event loop needs:
        # with spinning, one image on two shared cores took four times as long.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The arena and the memory pattern cost 60 MB and bring no speed with a varying batch size.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
    return CpuEngine(_cpu_session(path, options))


def may_run_on_gpu(provider: Provider) -> bool:
    """Return whether a session could run on a GPU here; whether it does, only the session knows."""
    return (
        provider != "cpu"
        and _CUDA in onnxruntime.get_available_providers()
        and driver_problem() is None
    )


def _load_on_cuda(path: Path, cuda: CudaOptions, gpu: Gpu | None, threads: int) -> CudaEngine:
    """Open an engine that really runs on CUDA, or raise `ProviderError` with the reason.

    On a GPU that others use, too, raises also `DeviceLostError` and `SessionFailedError`. `threads`
    are for what a graph has to compute on the CPU.
    """
    if _CUDA not in onnxruntime.get_available_providers():
        raise ProviderError(
            "provider cuda was asked for, but this ONNX Runtime is built for the CPU only; "
            f"run `pip uninstall -y onnxruntime`, then {install_command('gpu')}"
        )
    # Asked first, since ONNX Runtime would print its own account of it in several lines.
    if problem := driver_problem():
        raise ProviderError(f"there is no NVIDIA driver here ({problem}); {_CUDA_HINT}")
    onnxruntime.preload_dlls(directory="")  # from the nvidia wheels beside it
    model, contract = _described(path, tf32=cuda.tf32)
    owns_gpu, gpu = gpu is None, gpu or Gpu(cuda.device_id)
    try:
        return CudaEngine(
            gpu,
            model,
            partial(_cuda_session, path, contract, cuda, gpu, threads),
            graphs=cuda.graphs == "auto",
            batches=cuda.batches,
            owns_gpu=owns_gpu,
            device=_DEVICE,
        )
    except (DeviceLostError, SessionFailedError) as error:
        if not owns_gpu:
            raise
        gpu.close(_END_S)
        raise _does_not_load(path, error) from error
    except ProviderError:
        raise
    except Exception as error:  # ONNX Runtime's errors share no other root
        raise _does_not_load(path, error) from error


def _does_not_load(path: Path, error: Exception) -> ProviderError:
    return ProviderError(
        f"{path}: does not load with provider cuda: {first_line(error)}; {_CUDA_HINT}"
    )


def _described(path: Path, *, tf32: bool) -> tuple[GpuModel, ModelContract]:
    """Read what a file says of itself, which decides how it is opened on a GPU.

    By a session on the CPU that optimises nothing; it also tells a file's own faults from CUDA's.
    """
    options = _options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = _cpu_session(path, options)
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
    path: Path, contract: ModelContract, cuda: CudaOptions, gpu: Gpu, threads: int, graphs: bool
) -> Session:
    half = contract.precision == "fp16"
    options: dict[str, Any] = {
        "device_id": cuda.device_id,
        # Exhaustive search would time every algorithm again for every new batch size.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Of float16 the operands have no more bits than TF32 keeps; without it, cuDNN's plans for
        # tensor cores are passed over.
        "use_tf32": int(cuda.tf32 or half),
        # Measured: tensor cores are faster with NHWC, and float32 with NCHW.
        "prefer_nhwc": int(cuda.tf32 or half),
        "enable_cuda_graph": int(graphs),
    }
    session = _open(path, _options(threads), [(_CUDA, options), _CPU])
    if session.get_providers()[0] != _CUDA:
        raise ProviderError(
            f"{path}: ONNX Runtime has CUDA, but fell back to the CPU; {_CUDA_HINT}"
        )
    gpu.load_runtime()
    return session


def _options(intra_op_threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return options


def _cpu_session(path: Path, options: onnxruntime.SessionOptions) -> Session:
    try:
        session = _open(path, options, [_CPU])
    except Exception as error:  # ONNX Runtime's errors share no other root
        raise ModelFileError(f"{path}: ONNX Runtime can't load it: {first_line(error)}") from error
    _check_graph(session, path)
    return session


def _open(path: Path, options: onnxruntime.SessionOptions, providers: list[Any]) -> Session:
    # Without enable_fallback=0 the wrapper would retry on the CPU by itself, here and in run().
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=providers, enable_fallback=0
    )


def _check_graph(session: Session, path: Path) -> None:
    """Raise `ModelFileError` unless the inputs and outputs are those of a model file."""
    inputs = [(node.name, node.type, node.shape) for node in session.get_inputs()]
    match inputs:
        case [(name, "tensor(uint8)", [_, _, _, channels])] if name == INPUT_NAME:
            fits = channels == 3 or not isinstance(channels, int)  # symbolic sizes are strings
        case _:
            fits = False
    if not fits:
        raise ModelFileError(
            f"{path}: takes {inputs or 'nothing'}, not the one input `{INPUT_NAME}` "
            f"uint8 [N, H, W, 3]; {way_to_a_model_file(str(path))}"
        )
    outputs = {node.name: (node.type, len(node.shape)) for node in session.get_outputs()}
    if outputs.get(PROBABILITIES) != ("tensor(float)", 2):
        raise ModelFileError(
            f"{path}: has no output `{PROBABILITIES}` float32 [N, C]; "
            f"{way_to_a_model_file(str(path))}"
        )
