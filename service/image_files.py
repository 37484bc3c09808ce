"""The images of a folder or a tar: which of its files they are, and what reading them may raise."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from pathlib import Path, PurePath

from service.errors import first_line

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

UNREADABLE = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError, UnicodeError)
"""What reading a folder or a tar may raise, compressed ones included."""


def is_hidden(path: PurePath) -> bool:
    """Return whether a file or its folder is hidden, as other programs' copies are."""
    return any(part.startswith(".") for part in path.parts)


def is_image(path: PurePath) -> bool:
    """Return whether a file is an image by its name, and not hidden."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path)


def files_in(folder: Path) -> list[Path]:
    """List the files of a folder, searched through, in order and relative to it; hidden ones not.

    Raises `OSError`.
    """
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [file for file in files if not is_hidden(file)]


def images_in(folder: Path) -> list[Path]:
    """List the images of a folder, as `files_in` does. Raises `OSError`."""
    return [file for file in files_in(folder) if is_image(file)]


def no_images(where: object) -> str:
    """Say that a place has no images, and which files would be some."""
    return f"{where}: holds no images ({', '.join(SUFFIXES)})"


def cannot_read(where: object, error: Exception) -> str:
    """Say why a place can't be read; `error` is one of `UNREADABLE`."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return f"{where}: can't be read: {reason.rstrip(':')}"
