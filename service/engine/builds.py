"""Checks that exactly one build of ONNX Runtime is installed, and turns its telemetry off."""

from __future__ import annotations

import importlib.metadata
import os

from service.errors import RuntimeConflictError, RuntimeMissingError


def install_command(extra: str) -> str:
    """Return how to install an extra of this package, which is on no package index."""
    return f"`pip install '.[{extra}]'` in the folder of its source"


def prepare_runtime() -> None:
    """Check that exactly one build of ONNX Runtime is installed, and turn its telemetry off.

    ONNX Runtime's official builds send usage events to Microsoft unless `ORT_DISABLE_TELEMETRY`
    is set before they are imported; operators can turn that back on by setting it to 0.

    Raises `RuntimeMissingError` or `RuntimeConflictError`, with the command to run. Call it
    before anything imports `service.engine.onnx`.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _installed(name)]
    if not found:
        raise RuntimeMissingError(
            f"no ONNX Runtime is installed; run {install_command('cpu')}, or with [gpu] for an "
            "NVIDIA GPU"
        )
    if len(found) > 1:
        raise RuntimeConflictError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other; run "
            f"`pip uninstall -y onnxruntime onnxruntime-gpu`, then {install_command('cpu')}, or "
            "with [gpu] for an NVIDIA GPU"
        )


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def installed_runtime() -> str:
    """Return the installed build of ONNX Runtime and its version, as in "onnxruntime 1.22.0"."""
    for name in ("onnxruntime", "onnxruntime-gpu"):
        if _installed(name):
            return f"{name} {importlib.metadata.version(name)}"
    return "unknown"
