"""A simulated GPU: ONNX Runtime's CPU provider with the behaviour of its CUDA provider.

Answers are real. Time is simulated: a session keeps a plan for its last shape only; a plan takes a
quarter of a second, unless it replays a captured graph; and it serves only the thread that made it.
Copies happen as late as CUDA allows, so that code that does not wait for one reads what was there
before. What CUDA would not allow, or not notice, is collected in `wrong`.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import onnxruntime
import pytest

from service.engine.cuda_opener import CudaOpener
from service.engine.cudart import DEVICE_TO_DEVICE, CudaError, CudaRuntime
from service.engine.gpu import Gpu
from service.engine.onnx import OnnxOpener
from service.engine.providers import CUDA as PROVIDER
from service.engine.providers import EngineOptions

PLAN_S = 0.25
CAPTURING = "CUDA failure 900: operation not permitted when stream is capturing ; GPU=0"
ILLEGAL_ACCESS = "CUDA failure 700: an illegal memory access was encountered ; GPU=0"
OUT_OF_MEMORY = "CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size)"
CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]


def batch_s(size: int) -> float:
    """Return the default seconds of a batch that needs no plan."""
    return 0.001 + 0.0001 * size


@dataclass
class FakeDevice:
    """State shared by the sessions and copies of one GPU, and how it fails."""

    now: float = 1000.0
    batch_s: Callable[[int], float] = batch_s
    fail: dict[str, str] = field(
        default_factory=dict
    )  # "open", "open with graphs", "capture N", "run"
    on_run: list[Callable[[int], object]] = field(
        default_factory=list
    )  # called while a batch runs, with its size
    wrong: list[str] = field(default_factory=list)
    sessions: list[FakeSession] = field(default_factory=list)
    spoilt: weakref.WeakSet[FakeSession] = field(default_factory=weakref.WeakSet)
    capturing: bool = False
    reading: tuple[int, int] | None = None  # address and bytes
    sticky: int = 0

    def clock(self) -> float:
        return self.now

    def open(self, path: Path, *, graphs: bool) -> FakeSession:
        if message := self.fail.get("open"):
            raise RuntimeError(message)
        if graphs and (message := self.fail.get("open with graphs")):
            raise RuntimeError(message)
        if list(self.spoilt):
            self.wrong.append("a session is opened while the one whose capture failed still lives")
        self.sessions.append(FakeSession(self, path, graphs=graphs))
        return self.sessions[-1]


class FakeBinding:
    """Records what is bound; the real binding does the rest."""

    def __init__(self, real: onnxruntime.IOBinding) -> None:
        self.real = real
        self.input: onnxruntime.OrtValue | None = None
        self.outputs: list[str] = []

    def bind_ortvalue_input(self, name: str, value: onnxruntime.OrtValue) -> None:
        self.input = value
        self.real.bind_ortvalue_input(name, value)

    def bind_ortvalue_output(self, name: str, value: onnxruntime.OrtValue) -> None:
        self.outputs.append(name)
        self.real.bind_ortvalue_output(name, value)


class FakeSession:
    """One session of the CUDA provider."""

    make_real = staticmethod(onnxruntime.InferenceSession)

    def __init__(self, device: FakeDevice, path: Path, *, graphs: bool) -> None:
        self.device, self.graphs = device, graphs
        self._real = self.make_real(str(path), providers=["CPUExecutionProvider"])
        self._thread = threading.get_ident()
        self._planned: tuple[int, ...] | None = None
        self.captured: dict[str, FakeBinding] = {}
        self.plans = self.runs = 0
        self.spoilt = False

    def get_providers(self) -> list[str]:
        return CUDA

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self._real.io_binding())

    def run(self, names: Sequence[str], feed: Mapping[str, Any], options: Any = None) -> Any:
        self._enter()
        (images,) = feed.values()
        if self.graphs and _graph_id(options) != "-1":
            self._note("a plain run of a session with graphs would be captured")
        self._compute(images.shape)
        return self._real.run(names, feed)

    def run_with_iobinding(self, binding: FakeBinding, options: Any) -> None:
        self._enter()
        assert binding.input is not None
        graph, shape = _graph_id(options), tuple(binding.input.shape())
        if graph is None and self.graphs:
            self._note("a bound run without a graph's id")
        if graph is not None and graph not in self.captured:
            self._capture(graph, shape[0], binding)
        if graph is None:
            self._compute(shape)
        else:
            self._replay(graph, binding, shape[0])
        self.device.reading = binding.input.data_ptr(), binding.input.tensor_size_in_bytes()
        try:
            for called in self.device.on_run:
                called(shape[0])
            self._real.run_with_iobinding(binding.real)
        finally:
            self.device.reading = None
        self.runs += 1

    def _capture(self, graph: str, size: int, binding: FakeBinding) -> None:
        if not self.graphs:
            self._note("a graph's id in a session without graphs")
        self.device.capturing = True
        try:
            for called in self.device.on_run:
                called(-size)
            if message := self.device.fail.get(f"capture {size}"):
                self.spoilt = True
                self.device.sessions.remove(self)
                self.device.spoilt.add(self)
                raise RuntimeError(message)
            self._compute((size,))
            self.captured[graph] = binding
        finally:
            self.device.capturing = False

    def _replay(self, graph: str, binding: FakeBinding, size: int) -> None:
        if self.captured[graph] is not binding:
            self._note("a graph is replayed with other buffers than it was captured with")
        self.device.now += self.device.batch_s(size)

    def _compute(self, shape: tuple[int, ...]) -> None:
        if self._planned != shape:
            self._planned = shape
            self.plans += 1
            self.device.now += PLAN_S
        self.device.now += self.device.batch_s(shape[0])

    def _enter(self) -> None:
        if self.device.sticky:
            raise RuntimeError(ILLEGAL_ACCESS)
        if message := self.device.fail.get("run"):
            if "failure 700" in message:
                self.device.sticky = 700
            raise RuntimeError(message)
        if threading.get_ident() != self._thread:
            raise RuntimeError("CUDA failure 400: invalid resource handle: made on another thread")
        if self.spoilt:
            self._note("a session is used whose capture failed")

    def _note(self, what: str) -> None:
        self.device.wrong.append(what)


class FakeRuntime:
    """Stands for `CudaRuntime`. It uses host memory; a copy is done when it is waited for."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.buffers: dict[int, ctypes.Array[ctypes.c_char]] = {}
        self._streams: dict[int, list[tuple[int, int, int]]] = {}
        self.copies: list[tuple[int, int]] = []  # kind and bytes

    def allocate_pinned(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self.buffers[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    allocate = allocate_pinned

    def free_pinned(self, address: int) -> None:
        del self.buffers[address]

    free = free_pinned

    def create_stream(self) -> int:
        self._streams[len(self._streams) + 1] = []
        return len(self._streams)

    def destroy_stream(self, stream: int) -> None:
        self._streams[stream] = []

    def copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        if self.device.sticky:
            raise CudaError(ILLEGAL_ACCESS)
        if self.device.capturing:
            raise CudaError(CAPTURING)
        if kind == DEVICE_TO_DEVICE and source not in self.buffers:
            self.device.wrong.append("a copy within the device from elsewhere")
        self._streams[stream].append((target, source, size))
        self.copies.append((kind, size))

    def synchronize(self, stream: int) -> None:
        for target, source, size in self._streams[stream]:
            reading = self.device.reading
            if reading and target < reading[0] + reading[1] and reading[0] < target + size:
                self.device.wrong.append("a copy into a buffer that a running graph reads")
            ctypes.memmove(target, source, size)
        self._streams[stream] = []

    def memory(self) -> tuple[int, int]:
        return 60 * 2**30, 80 * 2**30

    def device_error(self) -> int:
        return self.device.sticky


def fake_gpu(device: FakeDevice, *, pinned: bool) -> Gpu:
    """Return a GPU with that device; without pinned memory, as if libcudart were missing."""
    runtime = cast("CudaRuntime", FakeRuntime(device)) if pinned else None
    gpu = Gpu(0, lambda _: runtime, device.clock)
    gpu.load_runtime()
    return gpu


def _graph_id(options: Any) -> str | None:
    try:
        value: str = options.get_run_config_entry("gpu_graph_id")
    except RuntimeError:  # it has none
        return None
    return value


@contextmanager
def fake_cuda(device: FakeDevice) -> Iterator[None]:
    """Make ONNX Runtime look like a CUDA build, whose GPU sessions use this device."""
    real = onnxruntime.InferenceSession

    def session(path: Any, sess_options: Any, providers: Any, enable_fallback: int) -> Any:
        assert enable_fallback == 0, "ONNX Runtime would retry on the CPU by itself"
        if providers == ["CPUExecutionProvider"]:
            return real(path, sess_options=sess_options, providers=providers)
        (_, options), _ = providers
        return device.open(path, graphs=bool(options["enable_cuda_graph"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeSession, "make_real", staticmethod(real))
        patch.setattr(onnxruntime, "InferenceSession", session)
        patch.setattr(onnxruntime, "get_available_providers", lambda: CUDA)
        patch.setattr(onnxruntime, "preload_dlls", lambda **_: None)
        patch.setattr("service.engine.providers.driver_problem", lambda: None)
        patch.setattr("service.engine.cuda_opener._DEVICE", "cpu")
        yield


def gpu_opener(
    device: FakeDevice, provider: str = "cuda", *, pinned: bool = True, **how: Any
) -> OnnxOpener:
    """Return the service's opener on a fake GPU; use it within `fake_cuda`."""
    options = EngineOptions(**how)
    on_gpu = CudaOpener(options, fake_gpu(device, pinned=pinned))
    return OnnxOpener(provider, options, {PROVIDER.name: on_gpu})
