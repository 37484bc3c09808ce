"""Files that a command reads, and those that it needs for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def missing(path: Path) -> str:
    """Say what keeps a path from being read as a file, beginning with it; empty if it is one."""
    reason = no_file(path)
    return f"{path}: {reason}" if reason else ""


def no_file(path: Path) -> str:
    """Say what is at a path in the place of a file; empty if one is. Nothing is opened.

    Opening a named pipe may wait for ever, and some devices have no end.
    """
    if path.is_file():
        return ""
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, where there is no file"
    found = (
        (path.is_dir, "folder"),
        (path.is_fifo, "named pipe"),
        (path.is_socket, "socket"),
        (path.exists, "device"),
    )
    kind = next((kind for holds, kind in found if holds()), None)
    return f"is a {kind}, not a file" if kind else "no such file"


def resolved(path: Path) -> Path:
    """Return where a path leads, as far as that is known: a link to itself leads nowhere."""
    return Path(os.path.realpath(path))


@contextmanager
def beside(path: Path, what: str) -> Iterator[Path]:
    """Yield a path beside another for a file that is needed for a while, and remove it then."""
    scratch = path.with_name(f"{path.name}.{what}")
    try:
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)
