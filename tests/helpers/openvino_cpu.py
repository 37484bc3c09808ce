"""OpenVINO on a CPU that computes in what a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from service.engine import openvino_library

_real_core = openvino_library.core


def needs_bf16(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test that computes in bfloat16: it is skipped on a CPU that has none."""
    marked: Callable[..., Any] = pytest.mark.openvino(pytest.mark.usefixtures("bf16_cpu")(test))
    return marked


class Core:
    """OpenVINO's own, in parts of which a test puts something else."""

    capabilities: tuple[str, ...] = ("FP32", "INT8")

    def __init__(self) -> None:
        self.real = _real_core()

    @property
    def available_devices(self) -> Any:
        return self.real.available_devices

    def get_property(self, *_: str) -> tuple[str, ...]:
        return self.capabilities

    def read_model(self, path: str) -> Any:
        return self.real.read_model(path)

    def compile_model(self, model: Any, device: str, config: dict[str, Any]) -> Any:
        return self.real.compile_model(model, device, config)


@contextmanager
def cpu_with(*names: str) -> Iterator[None]:
    """Have OpenVINO say that the CPU has these capabilities."""

    class Able(Core):
        capabilities = names

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_library, "core", Able)
        openvino_library.faster.cache_clear()
        try:
            yield
        finally:
            openvino_library.faster.cache_clear()
