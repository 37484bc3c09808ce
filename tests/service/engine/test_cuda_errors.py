"""Errors after which the process has to end are told from those that cost a session."""

from __future__ import annotations

import pytest

from service.engine.cuda_errors import judge
from service.errors import DeviceLostError, DeviceMemoryError, SessionFailedError

STICKY = [214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999]


def never() -> int:
    raise AssertionError("the message says enough")


@pytest.mark.parametrize("code", STICKY)
def test_what_sticks_to_the_context_loses_the_device(code):
    message = f"CUDA failure {code}: whatever ; GPU=0 ; hostname=h ; expr=cudaStreamSynchronize(s)"
    judged = judge(RuntimeError(f"{message}\n  more lines"), never)
    assert type(judged) is DeviceLostError
    assert str(judged) == message


@pytest.mark.parametrize(
    "message",
    [
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
        "CUDNN failure 4: CUDNN_STATUS_ALLOCATION_FAILED ; GPU=0",
        "BFCArena::AllocateRawInternal Available memory of 0 is smaller than requested bytes",
        "Failed to allocate memory for requested buffer of size 102760448",
    ],
)
def test_a_failed_allocation_costs_the_session(message):
    assert type(judge(RuntimeError(message), never)) is DeviceMemoryError


@pytest.mark.parametrize("code", range(900, 911))
def test_a_failed_capture_costs_the_session(code):
    message = f"CUDA failure {code}: operation not permitted when stream is capturing ; GPU=0"
    assert type(judge(RuntimeError(message), never)) is SessionFailedError


@pytest.mark.parametrize(
    "message",
    [
        "CUDA failure 1: invalid argument ; GPU=0",
        "Non-zero status code ... CUDNN failure 5003: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED ; GPU=0",
        "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED",
    ],
)
@pytest.mark.parametrize(
    ("reported", "meaning"),
    [(0, SessionFailedError), (700, DeviceLostError), (None, DeviceLostError)],
)
def test_of_anything_else_the_device_itself_is_asked(message, reported, meaning):
    """Where it can't be asked, a new process is the way that always helps."""
    assert type(judge(RuntimeError(message), lambda: reported)) is meaning


@pytest.mark.parametrize("message", ["", "input data type is wrong", "CUDA is nice"])
def test_other_errors_are_about_neither(message):
    assert judge(RuntimeError(message), never) is None
