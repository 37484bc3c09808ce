"""Describes the machine of a measurement, without which its figures mean nothing."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import psutil

from service import __version__
from service.cpus import cpu_count, cpu_model

_PACKAGES = ("onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "simplejpeg", "uvicorn", "uvloop")


def describe_machine() -> dict[str, Any]:
    """Return the CPU, cores, memory, versions and command line."""
    return {
        "cpu": cpu_model(),
        "cores": cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "resnet_serve": __version__,
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def command_of(pid: int) -> str | None:
    """Return the command line that a process was started with; None if it has ended."""
    try:
        return shlex.join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
