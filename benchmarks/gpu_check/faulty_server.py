"""`resnet-serve` that breaks its own CUDA context on SIGUSR1, as a hardware fault does.

A kernel that writes to address 0 is launched in the process's primary context, which ONNX Runtime
uses as well. Its error, an illegal memory access (700), sticks: every later call reports it.

Source: https://docs.nvidia.com/cuda/cuda-driver-api/
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading

PTX = b"""
.version 7.0
.target sm_50
.address_size 64
.visible .entry fault()
{
    .reg .u64 %a;
    .reg .u32 %v;
    mov.u64 %a, 0;
    mov.u32 %v, 1;
    st.global.u32 [%a], %v;
    ret;
}
"""


def break_context(driver: ctypes.CDLL, device_id: int = 0) -> int:
    """Launch the kernel and wait for it; returns the error that the driver reports."""
    device, context = ctypes.c_int(), ctypes.c_void_p()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    calls = (
        ("cuInit", (0,)),
        ("cuDeviceGet", (ctypes.byref(device), device_id)),
        ("cuDevicePrimaryCtxRetain", (ctypes.byref(context), device)),
        ("cuCtxSetCurrent", (context,)),
        ("cuModuleLoadData", (ctypes.byref(module), PTX)),
        ("cuModuleGetFunction", (ctypes.byref(function), module, b"fault")),
        ("cuLaunchKernel", (function, 1, 1, 1, 1, 1, 1, 0, None, None, None)),
        ("cuCtxSynchronize", ()),
    )
    for name, arguments in calls:
        code: int = getattr(driver, name)(*arguments)
        if code:
            return code
    return 0


def main() -> int:
    """Serve, ready to break."""

    def provoke(*_: object) -> None:
        # Not on the event loop, which is to tell its clients.
        driver = ctypes.CDLL("libcuda.so.1")
        threading.Thread(target=break_context, args=(driver,), daemon=True).start()

    signal.signal(signal.SIGUSR1, provoke)
    from service.cli import main as resnet_serve  # noqa: PLC0415 - it sets up ONNX Runtime first

    return resnet_serve()


if __name__ == "__main__":
    sys.exit(main())
