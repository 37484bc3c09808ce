"""The CUDA runtime by ctypes: what is called, in which order, and what an error looks like."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

import pytest

from service.engine.cuda_errors import judge
from service.engine.cudart import HOST_TO_DEVICE, CudaError, CudaRuntime, loaded_runtime
from service.errors import DeviceLostError


class Library:
    """Stands for libcudart; `codes` are what calls give that are not to succeed."""

    def __init__(self, **codes: int) -> None:
        self.codes = codes
        self.calls: list[tuple[str, list[object]]] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments):
            plain = [getattr(argument, "value", argument) for argument in arguments]
            self.calls.append((name, plain))
            if name == "cudaGetErrorString":
                return b"an illegal memory access was encountered"
            if name == "cudaMemGetInfo":
                for reference, value in zip(arguments, (3, 8), strict=True):
                    reference._obj.value = value
            if name in ("cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags"):
                arguments[0]._obj.value = 0x7F0000001000
            return self.codes.get(name, 0)

        self.__dict__[name] = call
        return call


def runtime_of(library: Any, device_id: int) -> CudaRuntime:
    return CudaRuntime(library, device_id)


def test_each_call_is_made_for_its_device_on_whatever_thread():
    library = Library()
    runtime_of(library, 3).copy(0x10, 0x20, 5, HOST_TO_DEVICE, 0x30)
    assert library.calls == [
        ("cudaSetDevice", [3]),
        ("cudaMemcpyAsync", [0x10, 0x20, 5, 1, 0x30]),
    ]


def test_addresses_are_whole_numbers_of_64_bits():
    runtime = runtime_of(Library(), 0)
    assert runtime.allocate(100) == 0x7F0000001000
    assert runtime.allocate_pinned(100) == 0x7F0000001000
    assert runtime.create_stream() == 0x7F0000001000


def test_memory_is_told_free_and_in_all():
    assert runtime_of(Library(), 0).memory() == (3, 8)


def test_a_failed_call_has_an_error_of_onnx_runtimes_form():
    with pytest.raises(CudaError) as caught:
        runtime_of(Library(cudaStreamSynchronize=700), 0).synchronize(1)
    assert str(caught.value) == (
        "CUDA failure 700: an illegal memory access was encountered ; expr=cudaStreamSynchronize"
    )
    assert isinstance(judge(caught.value, lambda: 0), DeviceLostError)


def test_a_failed_call_leaves_no_error_for_onnx_runtime_to_find():
    library = Library(cudaMalloc=2)
    with pytest.raises(CudaError):
        runtime_of(library, 0).allocate(10)
    assert "cudaGetLastError" in [name for name, _ in library.calls]


def test_a_device_that_can_not_be_set_is_an_error_before_the_call():
    library = Library(cudaSetDevice=101)
    with pytest.raises(CudaError, match="CUDA failure 101"):
        runtime_of(library, 9).allocate(10)
    assert "cudaMalloc" not in [name for name, _ in library.calls]


@pytest.mark.parametrize(("code", "reported"), [(0, 0), (719, 719)])
def test_the_device_is_asked_after_errors_that_do_not_stick_were_forgotten(code, reported):
    library = Library(cudaDeviceSynchronize=code)
    assert runtime_of(library, 0).device_error() == reported
    assert next(name for name, _ in library.calls) == "cudaGetLastError"


def test_the_runtime_is_the_one_that_the_process_has_loaded(tmp_path, monkeypatch):
    maps = tmp_path / "maps"
    path = "/site/nvidia/cu13/lib/libcudart.so.13"
    maps.write_text(
        f"7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/libc.so.6\n7f02-7f03 r-xp 0 08:01 2 {path}\n"
    )
    loaded = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: loaded.append(name) or Library())
    runtime = loaded_runtime(0, maps)
    assert runtime is not None
    assert loaded == [path]


def test_where_none_is_loaded_there_is_none(tmp_path):
    (tmp_path / "maps").write_text("7f00-7f01 r-xp 00000000 08:01 1 /usr/lib/libc.so.6\n")
    assert loaded_runtime(0, tmp_path / "maps") is None
    assert loaded_runtime(0, tmp_path / "none") is None


def test_names_and_types_are_those_of_a_c_library():
    """Called through the real ctypes, by a library that is everywhere."""
    libc = ctypes.CDLL(ctypes.util.find_library("c"))
    runtime = CudaRuntime(libc, 0)
    with pytest.raises(AttributeError, match="cudaSetDevice"):
        runtime.synchronize(0)
