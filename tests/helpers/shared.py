"""What is costly to make is made once in a test run, for all of its processes."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest


def shared_folder(factory: pytest.TempPathFactory, worker: str | None) -> Path:
    """Return a folder of this run; pytest-xdist's workers have folders in one, which they share."""
    base = factory.getbasetemp()
    folder = (base.parent if worker else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """Return a file that `make` writes at the path it gets, unless another process has done so."""
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = path.with_name(f"part-{path.name}")
            make(part)
            part.rename(path)
    return path
