"""What NVIDIA's driver says of a GPU."""

from __future__ import annotations

import ctypes

from service.engine.nvidia import driver_problem, gpu_name


class Driver:
    """Stands for NVIDIA's driver, with one GPU."""

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def cuInit(self, flags):  # noqa: N802 - its names
        return 999 if self.broken else 0

    def cuDeviceGet(self, device, number):  # noqa: N802
        return 101 if number else 0

    def cuDeviceGetName(self, name, size, device):  # noqa: N802
        assert size == len(name)
        name.value = b"NVIDIA A10"
        return 0


def test_a_gpu_is_told_by_its_name(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert gpu_name(0) == "NVIDIA A10"
    assert gpu_name(1) is None, "there is no second one"


def test_a_gpu_that_can_not_be_asked_has_no_name(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(broken=True))
    assert gpu_name(0) is None

    def no_driver(name):
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert gpu_name(0) is None
    assert driver_problem() == "libcuda.so.1: cannot open shared object file"
