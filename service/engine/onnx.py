"""Runs model files with ONNX Runtime."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import structlog
from numpy.typing import NDArray

from service.contract import INPUT_NAME, PROBABILITIES
from service.cpus import cpu_count
from service.engine.providers import PROVIDERS, driver_problem
from service.errors import DeviceLostError, ModelFileError, ProviderError
from service.settings import Provider

_log = structlog.get_logger(__name__)

_CUDA = "CUDAExecutionProvider"
_FAILURE = re.compile(r"(CUDA|CUDNN|CUBLAS) failure \d+: (?P<what>[^;]*)", re.IGNORECASE)
_FULL = re.compile(r"out of memory|ALLOC(ATION)?_FAILED", re.IGNORECASE)
_CUDA_HINT = (
    "is a GPU visible (`nvidia-smi`), and did `pip install 'resnet-serve[gpu]'` bring "
    "the CUDA libraries? `--provider cpu` serves without a GPU"
)


class OnnxEngine:
    """One model file in one ONNX Runtime session. Thread-safe, as sessions are."""

    def __init__(self, session: onnxruntime.InferenceSession, *, tf32: bool = False) -> None:
        self._session = session
        self.tf32 = tf32
        self.provider: str = PROVIDERS[session.get_providers()[0]]
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give the probabilities [N, C] of images [N, H, W, 3].

        Only this output is copied out; the file may have others. Raises `DeviceLostError`.
        """
        try:
            answer: NDArray[np.float32] = self._session.run([PROBABILITIES], {INPUT_NAME: images})[
                0
            ]
        except Exception as error:
            if self.provider == "cuda" and _tells_of_a_lost_device(str(error)):
                raise DeviceLostError(_first_line(error)) from error
            raise
        return answer

    @property
    def classes(self) -> int | None:
        """C of the probabilities, if the file states it."""
        outputs = {output.name: output.shape for output in self._session.get_outputs()}
        size = outputs[PROBABILITIES][1]
        return size if isinstance(size, int) else None

    def close(self) -> None:
        """Drop the session, and with it the model's memory; doing it again does no harm."""
        self.__dict__.pop("_session", None)


def load_engine(
    path: Path,
    *,
    provider: Provider = "auto",
    intra_op_threads: int = 0,
    device_id: int = 0,
    tf32: bool = False,
    runtime_defaults: bool = False,
) -> OnnxEngine:
    """Open a model file on the provider asked for; "auto" takes CUDA where it works.

    `intra_op_threads` 0 means one for each CPU of this process. With `runtime_defaults`, threads
    that wait spin and memory comes from an arena, as ONNX Runtime has it by itself: for comparison.

    Raises `ModelFileError` for a file that is no model of the expected inputs and outputs, and
    `ProviderError` when "cuda" was asked for and the session does not run on it.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = intra_op_threads or cpu_count()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not runtime_defaults:
        # A thread that spins while it waits takes the core that decoding or the event loop needs:
        # with spinning, one image on two shared cores took four times as long.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # The arena and the memory pattern cost 60 MB and bring no speed with a varying batch size.
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False

    session: onnxruntime.InferenceSession | None = None
    if provider != "cpu":
        try:
            session = _cuda_session(path, options, device_id, tf32)
        except ProviderError as error:
            if provider == "cuda":
                raise
            if _CUDA in onnxruntime.get_available_providers():
                _log.warning("serving_on_cpu", detail=str(error))
    if session is None:
        return OnnxEngine(_check_graph(_cpu_session(path, options), path))
    return OnnxEngine(_check_graph(session, path), tf32=tf32)


def may_run_on_gpu(provider: Provider) -> bool:
    """Tell whether a session could run on a GPU here; whether it does, only the session knows."""
    return (
        provider != "cpu"
        and _CUDA in onnxruntime.get_available_providers()
        and driver_problem() is None
    )


def _cuda_session(
    path: Path, options: onnxruntime.SessionOptions, device_id: int, tf32: bool
) -> onnxruntime.InferenceSession:
    """Open a session that really runs on CUDA, or raise `ProviderError` with the reason."""
    if _CUDA not in onnxruntime.get_available_providers():
        raise ProviderError(
            "provider cuda was asked for, but this ONNX Runtime is built for the CPU only; "
            "run `pip uninstall -y onnxruntime`, then `pip install 'resnet-serve[gpu]'`"
        )
    # Asked first, since ONNX Runtime would print its own account of it in several lines.
    if problem := driver_problem():
        raise ProviderError(f"there is no NVIDIA driver here ({problem}); {_CUDA_HINT}")
    onnxruntime.preload_dlls(directory="")  # from the nvidia wheels beside it
    cuda: dict[str, Any] = {
        "device_id": device_id,
        # Exhaustive search would time every algorithm again for every new batch size.
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": int(tf32),
    }
    try:
        session = _open(path, options, [(_CUDA, cuda), "CPUExecutionProvider"])
    except Exception as error:
        _cpu_session(path, options)  # raises where it is the file's fault
        raise ProviderError(
            f"{path}: does not load with provider cuda: {_first_line(error)}; {_CUDA_HINT}"
        ) from error
    if session.get_providers()[0] != _CUDA:
        raise ProviderError(
            f"{path}: ONNX Runtime has CUDA, but fell back to the CPU; {_CUDA_HINT}"
        )
    return session


def _cpu_session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return _open(path, options, ["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no other root
        raise ModelFileError(
            f"{path}: is no model that ONNX Runtime can load: {_first_line(error)}"
        ) from error


def _open(
    path: Path, options: onnxruntime.SessionOptions, providers: list[Any]
) -> onnxruntime.InferenceSession:
    # Without enable_fallback=0 the wrapper would retry on the CPU by itself, here and in run().
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=providers, enable_fallback=0
    )


def _check_graph(session: onnxruntime.InferenceSession, path: Path) -> onnxruntime.InferenceSession:
    """Give the session back if its inputs and outputs are those of a model file."""
    inputs = [(node.name, node.type, node.shape) for node in session.get_inputs()]
    match inputs:
        case [(name, "tensor(uint8)", [_, _, _, channels])] if name == INPUT_NAME:
            fits = channels == 3 or not isinstance(channels, int)  # symbolic sizes are strings
        case _:
            fits = False
    if not fits:
        raise ModelFileError(
            f"{path}: takes {inputs or 'nothing'}, not the one input `{INPUT_NAME}` "
            "uint8 [N, H, W, 3]; make a model file with `resnet-export export`"
        )
    outputs = {node.name: (node.type, len(node.shape)) for node in session.get_outputs()}
    if outputs.get(PROBABILITIES) != ("tensor(float)", 2):
        raise ModelFileError(f"{path}: has no output `{PROBABILITIES}` float32 [N, C]")
    return session


def _tells_of_a_lost_device(message: str) -> bool:
    """Tell an error after which the CUDA context is useless from one that spares it.

    ONNX Runtime has only the message, with the name of the error of CUDA, cuDNN or cuBLAS. They
    stick to the context, but for those of a failed allocation
    (https://docs.nvidia.com/cuda/cuda-runtime-api, cudaErrorMemoryAllocation).
    """
    match = _FAILURE.search(message)
    return match is not None and not _FULL.search(match["what"])


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
