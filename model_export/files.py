"""Checks of files that a command reads, and temporary files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def missing(path: Path) -> str:
    """Return why a path can't be read as a file, beginning with the path; empty if it can."""
    reason = no_file(path)
    return f"{path}: {reason}" if reason else ""


def no_file(path: Path) -> str:
    """Return what is at a path instead of a file; empty if there is a file. Nothing is opened.

    Opening a named pipe may block forever, and some devices have no end.
    """
    if path.is_file():
        return ""
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, which does not exist"
    found = (
        (path.is_dir, "folder"),
        (path.is_fifo, "named pipe"),
        (path.is_socket, "socket"),
        (path.exists, "device"),
    )
    kind = next((kind for holds, kind in found if holds()), None)
    return f"is a {kind}, not a file" if kind else "no such file"


def resolved(path: Path) -> Path:
    """Return the path with links resolved as far as possible; a link to itself is kept."""
    return Path(os.path.realpath(path))


@contextmanager
def beside(path: Path, what: str) -> Iterator[Path]:
    """Yield a path beside another for a temporary file, which is removed at the end."""
    scratch = path.with_name(f"{path.name}.{what}")
    try:
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)
