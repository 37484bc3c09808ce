"""Tells CUDA errors that cost the process its GPU from those that only make a session useless.

ONNX Runtime only has a message, with the error code of CUDA, cuDNN or cuBLAS in it.

Source: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html (cudaError), which
says of sticky errors that "the process must be terminated and relaunched".
"""

from __future__ import annotations

import re
from collections.abc import Callable

from service.errors import DeviceLostError, DeviceMemoryError, SessionFailedError, first_line

_FAILURE = re.compile(
    r"\b(?P<library>CUDA|CUDNN|CUDNN_FE|CUBLAS|CUBLASLT|CUFFT) failure (?P<code>\d+)", re.IGNORECASE
)
_FULL = re.compile(
    r"out of memory|ALLOC(ATION)?_FAILED|Failed to allocate memory|AllocateRawInternal",
    re.IGNORECASE,
)
_STICKY = frozenset({214, 220, 700, 702, 709, 710, *range(714, 720), 999})
_OUT_OF_MEMORY = 2
_CAPTURE = range(900, 911)


def judge(
    error: BaseException, device_error: Callable[[], int | None]
) -> DeviceLostError | SessionFailedError | None:
    """Return what an error means for the device or the session, or None if it concerns neither.

    `device_error` synchronizes the device and returns the error code that it reports, 0 if it works
    or None if it can't be asked. It is only called if the message alone does not settle the
    question.
    """
    message = str(error)
    first = first_line(error)
    found = _FAILURE.search(message)
    cuda = int(found["code"]) if found and found["library"].upper() == "CUDA" else None
    if cuda in _STICKY:
        return DeviceLostError(first)
    if cuda == _OUT_OF_MEMORY or _FULL.search(message):
        return DeviceMemoryError(first)
    if cuda in _CAPTURE:
        return SessionFailedError(first)
    if found is None:
        return None
    # A device that can't be asked is assumed lost: a new process always helps.
    return SessionFailedError(first) if device_error() == 0 else DeviceLostError(first)
