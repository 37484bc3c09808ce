"""OpenVINO, imported once: whether it works here, and the precisions its CPU device supports.

It is used directly, not as ONNX Runtime's provider, which supports only Intel CPUs and does not
report the precision in which a model actually runs.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from service.contract import Faster
from service.errors import first_line

PACKAGE = "openvino"
DEVICE = "CPU"

HINTS: Mapping[Faster | None, str] = MappingProxyType({None: "f32", "bf16": "bf16", "fp16": "f16"})
"""Values of OpenVINO's option for the precision of floating-point products."""

_CAPABILITIES: Mapping[str, Faster] = MappingProxyType({"BF16": "bf16", "FP16": "fp16"})


@cache
def library() -> Any:
    """Import OpenVINO without its telemetry, which would report each import to its makers.

    Raises whatever a broken installation raises.
    """
    # Without this package, OpenVINO sends nothing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None marks it as missing
    import openvino  # noqa: PLC0415 - takes half a second, and is an extra

    return openvino


@cache
def core() -> Any:
    """Return the process's only `Core`, which finds devices and compiles models for them."""
    return library().Core()


@cache
def problem() -> str | None:
    """Return why OpenVINO does not work here although it is installed; None if it does."""
    try:
        devices = core().available_devices
    except Exception as error:  # noqa: BLE001 - a broken library may raise anything
        return f"OpenVINO does not work here: {first_line(error)}"
    return None if DEVICE in devices else "OpenVINO finds no CPU that it supports"


@cache
def faster() -> frozenset[Faster]:
    """Return the precisions that this CPU computes faster than float32."""
    found = core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return frozenset(_CAPABILITIES[name] for name in found if name in _CAPABILITIES)


def version() -> str:
    """Return the installed version, as in "openvino 2026.4.1"."""
    return f"{PACKAGE} {importlib.metadata.version(PACKAGE)}"
