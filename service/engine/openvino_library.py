"""OpenVINO, imported once: whether it works here, and in what its CPU device computes.

It stands on its own, not as a plugin of ONNX Runtime: that one offers its device on Intel's CPUs
only, and tells nobody in which precision a model really runs.
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
CACHE_DIR = "CACHE_DIR"
"""Its option of a folder for what it compiled; one file serves all precisions and threads."""

HINTS: Mapping[Faster | None, str] = MappingProxyType({None: "f32", "bf16": "bf16", "fp16": "f16"})
"""How its option is called that says in what floating-point products are computed."""

_CAPABILITIES: Mapping[str, Faster] = MappingProxyType({"BF16": "bf16", "FP16": "fp16"})


@cache
def library() -> Any:
    """Import the library; its package tells its makers of each import, which it must not here.

    Raises whatever a broken installation does.
    """
    # Where that package is missing, the library does without it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # a marker of Python's
    import openvino  # noqa: PLC0415 - takes half a second, and is an extra

    return openvino


@cache
def core() -> Any:
    """Return the process's only core, which finds devices and compiles for them."""
    return library().Core()


@cache
def problem() -> str | None:
    """Say why OpenVINO can't compute here though it is installed; None if it can."""
    try:
        devices = core().available_devices
    except Exception as error:  # noqa: BLE001 - a broken library fails in its own ways
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
