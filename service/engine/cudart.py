"""The few CUDA runtime calls that ONNX Runtime's Python API lacks, through ctypes.

They cover pinned memory, asynchronous copies, and the device's memory and errors. The library is
the one that ONNX Runtime has loaded, so both use the same context.

Source: https://docs.nvidia.com/cuda/cuda-runtime-api/
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

HOST_TO_DEVICE, DEVICE_TO_DEVICE = 1, 3
_NON_BLOCKING = 1  # cudaStreamNonBlocking: it does not wait for the legacy default stream
_PORTABLE = 1  # cudaHostAllocPortable

_MAPPED = re.compile(r"(/\S*/libcudart\.so[.\d]*)$", re.MULTILINE)


class CudaError(RuntimeError):
    """A call failed; the message has the same form as ONNX Runtime's."""


class CudaRuntime:
    """The CUDA runtime on one device. Calls raise `CudaError`, and release the GIL.

    Addresses and streams are integers; sizes are in bytes.
    """

    def __init__(self, library: ctypes.CDLL, device_id: int) -> None:
        self._library, self._device_id = library, device_id

    def allocate_pinned(self, size: int) -> int:
        """Allocate page-locked host memory, which the device can copy from directly."""
        address = ctypes.c_void_p()
        self._call("cudaHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), _PORTABLE)
        return address.value or 0

    def free_pinned(self, address: int) -> None:
        """Free memory from `allocate_pinned`."""
        self._call("cudaFreeHost", ctypes.c_void_p(address))

    def allocate(self, size: int) -> int:
        """Allocate device memory."""
        address = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value or 0

    def free(self, address: int) -> None:
        """Free memory from `allocate`; waits for the device."""
        self._call("cudaFree", ctypes.c_void_p(address))

    def create_stream(self) -> int:
        """Create a stream that does not wait for others."""
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreateWithFlags", ctypes.byref(stream), _NON_BLOCKING)
        return stream.value or 0

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream from `create_stream`."""
        self._call("cudaStreamDestroy", ctypes.c_void_p(stream))

    def copy(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        """Start copying on a stream; `kind` is `HOST_TO_DEVICE` or `DEVICE_TO_DEVICE`."""
        self._call(
            "cudaMemcpyAsync", ctypes.c_void_p(target), ctypes.c_void_p(source),
            ctypes.c_size_t(size), kind, ctypes.c_void_p(stream),
        )  # fmt: skip

    def synchronize(self, stream: int) -> None:
        """Wait until all work started on a stream is done."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def memory(self) -> tuple[int, int]:
        """Return the device's free and total memory in bytes."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def device_error(self) -> int:
        """Synchronize the device and return the error code that it reports, 0 for none."""
        self._library.cudaGetLastError()  # clears an error that is not sticky
        code: int = self._library.cudaSetDevice(self._device_id)
        return code or int(self._library.cudaDeviceSynchronize())

    def _call(self, name: str, *arguments: Any) -> None:
        # The current device is a property of the calling thread.
        for function, given in (("cudaSetDevice", (self._device_id,)), (name, arguments)):
            code: int = getattr(self._library, function)(*given)
            if code:
                self._library.cudaGetLastError()  # or ONNX Runtime would report it as its own
                raise CudaError(f"CUDA failure {code}: {self._describe(code)} ; expr={function}")

    def _describe(self, code: int) -> str:
        describe = self._library.cudaGetErrorString
        describe.restype = ctypes.c_char_p
        text: bytes | None = describe(code)
        return (text or b"unknown").decode(errors="replace")


def loaded_runtime(device_id: int, maps: Path = Path("/proc/self/maps")) -> CudaRuntime | None:
    """Return the CUDA runtime that this process has loaded, or None."""
    try:
        found = _MAPPED.search(maps.read_text("utf-8", "replace"))
        return CudaRuntime(ctypes.CDLL(found[1]), device_id) if found else None
    except OSError:
        return None
