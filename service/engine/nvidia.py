"""Queries NVIDIA's driver, without ONNX Runtime."""

from __future__ import annotations

import ctypes


def gpu_name(device_id: int) -> str | None:
    """Return a GPU's name, such as "NVIDIA A10", from the driver; None without driver or GPU.

    Source: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), device_id)
        or driver.cuDeviceGetName(name, len(name), device)
    )
    return None if failed else name.value.decode(errors="replace")


def driver_problem() -> str | None:
    """Return why NVIDIA's driver can't be loaded, or None if it can."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return str(error)
    return None
