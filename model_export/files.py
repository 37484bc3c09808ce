"""Files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there takes its place at the end.

    If the block raises, Ctrl-C included, the temporary file is removed and `path` is untouched.
    The folder is made if need be. Raises `OSError`, which names `path` if it named no file: writing
    to a full disk does not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        yield temporary
        settle(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename in {None, os.fspath(temporary)}:
            error.filename = os.fspath(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


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


def settle(written: Path, path: Path) -> None:
    """Put a written file in its place. Raises `OSError`."""
    with written.open("rb") as file:
        # Some file systems report a full disk only here.
        os.fsync(file.fileno())
    written.replace(path)


@contextmanager
def beside(path: Path, what: str) -> Iterator[Path]:
    """Yield a path beside another for a file that is needed for a while, and remove it then."""
    scratch = path.with_name(f"{path.name}.{what}")
    try:
        yield scratch
    finally:
        scratch.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
