"""Exactly one build of ONNX Runtime, and how many CPUs there are for it."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os

import pytest

from service.engine.providers import gpu_name, installed_runtime, prepare_runtime
from service.errors import RuntimeConflictError, RuntimeMissingError


@pytest.fixture
def installed(monkeypatch):
    """Gives a function that sets which builds of ONNX Runtime are installed."""
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")  # which `prepare_runtime` may set

    def pretend(*names: str) -> None:
        def distribution(name: str) -> str:
            if name not in names:
                raise importlib.metadata.PackageNotFoundError(name)
            return name

        monkeypatch.setattr(importlib.metadata, "distribution", distribution)

    return pretend


def test_this_installation_has_one_build():
    prepare_runtime()


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_one_build_is_right_whichever(installed, name):
    installed(name, "numpy")
    prepare_runtime()


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-gpu"])
def test_the_build_is_told_with_its_version(installed, monkeypatch, name):
    installed(name)
    monkeypatch.setattr(importlib.metadata, "version", {name: "1.22.0"}.__getitem__)
    assert installed_runtime() == f"{name} 1.22.0"


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


def test_no_build_is_told_the_commands_that_install_one(installed):
    installed("numpy")
    with pytest.raises(RuntimeMissingError) as caught:
        prepare_runtime()
    message = str(caught.value)
    assert "run `pip install '.[cpu]'` in the folder of its source, or with [gpu]" in message
    assert "\n" not in message


def test_both_builds_are_told_the_command_that_removes_them(installed):
    """They overwrite each other's files: which one works is chance."""
    installed("onnxruntime", "onnxruntime-gpu")
    with pytest.raises(RuntimeConflictError) as caught:
        prepare_runtime()
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in str(caught.value)
    assert "then `pip install '.[cpu]'`" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_telemetry_is_off_unless_the_operator_turned_it_on(installed, monkeypatch):
    installed("onnxruntime")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    prepare_runtime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    prepare_runtime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
