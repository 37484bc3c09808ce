"""Exactly one build of ONNX Runtime is installed, and sends nothing."""

from __future__ import annotations

import importlib.metadata
import os

import pytest

from service.engine.builds import installed_runtime, prepare_runtime
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
