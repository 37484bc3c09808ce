"""Image files in a folder or a tar: which files count as images, and what reading may raise."""

from __future__ import annotations

import lzma
import tarfile
import zlib
from pathlib import Path, PurePath

from service.errors import first_line

SUFFIXES = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp",
)  # fmt: skip

UNREADABLE = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError, UnicodeError)
"""What reading a folder or a tar, compressed or not, may raise."""


def is_hidden(path: PurePath) -> bool:
    """Return whether a file or a folder of its path is hidden, like other programs' copies."""
    return any(part.startswith(".") for part in path.parts)


def is_image(path: PurePath) -> bool:
    """Return whether a file is an image, judging by its name, and not hidden."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path)


def files_in(folder: Path) -> list[Path]:
    """List a folder's files recursively: sorted, relative to it, without hidden ones.

    Raises `OSError`.
    """
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [file for file in files if not is_hidden(file)]


def images_in(folder: Path) -> list[Path]:
    """List a folder's images, like `files_in`. Raises `OSError`."""
    return [file for file in files_in(folder) if is_image(file)]


def no_images(where: object) -> str:
    """Return a message that `where` has no images, with the accepted suffixes."""
    return f"{where}: has no images ({', '.join(SUFFIXES)})"


def cannot_read(where: object, error: Exception) -> str:
    """Return a message that says why `where` can't be read; `error` is one of `UNREADABLE`."""
    reason = getattr(error, "strerror", None) or first_line(error)
    return f"{where}: can't be read: {reason.rstrip(':')}"
