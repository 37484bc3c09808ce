"""Atomic file writes, file digests, and the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and move the file written there to `path` at the end.

    If the block raises, including on Ctrl-C, the temporary file is removed and `path` is untouched.
    The folder is created if needed. Raises `OSError`, which is made to name `path` if it names no
    file, as when the disk is full.
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


def settle(written: Path, path: Path) -> None:
    """Flush a written file to disk and move it to `path`. Raises `OSError`."""
    with written.open("rb") as file:
        # Some file systems report a full disk only here.
        os.fsync(file.fileno())
    written.replace(path)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache() -> Path | None:
    """Return this program's folder in the user's cache directory, or None if there is none.

    On Linux: https://specifications.freedesktop.org/basedir-spec/latest/
    """
    from platformdirs import user_cache_path  # noqa: PLC0415 - most commands need no cache

    try:
        folder = user_cache_path("resnet-serve")
    except RuntimeError:  # the home directory is unknown
        return None
    return folder if folder.is_absolute() else None
