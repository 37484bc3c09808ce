"""OpenVINO on a CPU that computes in what a test says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from service.engine import openvino_library

has_bf16 = pytest.mark.skipif(
    "bf16" not in openvino_library.faster(), reason="this CPU has no bfloat16"
)


class Core:
    """OpenVINO's own, in parts of which a test puts something else."""

    real = openvino_library.core()
    capabilities: tuple[str, ...] = ("FP32", "INT8")

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
