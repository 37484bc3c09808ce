"""Files that a command reads, and those that it needs for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def missing(path: Path) -> str:
    """Say what keeps a path from being read as a file; empty if it is one."""
    if path.is_file():
        return ""
    return f"{path}: is a folder, not a file" if path.is_dir() else f"{path}: no such file"


@contextmanager
def beside(path: Path, what: str) -> Iterator[Path]:
    """Return a path beside another for a file that is needed for a while, and remove it then."""
    scratch = path.with_name(f"{path.name}.{what}")
    try:
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)
