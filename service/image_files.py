"""Image files in a folder or a tar: which files count as images, and what reading may raise."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
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


def walk(folder: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    """Yield a folder's files recursively: sorted, relative to it, without hidden ones.

    Only the names of the folders on the way are in memory, not those of all files. Linked folders
    are not entered. `on_error` gets the error of a folder that can't be listed.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        on_error(error)
        return
    for entry in entries:
        if is_hidden(PurePath(entry.name)):
            continue
        if entry.is_dir(follow_symlinks=False):
            for path in walk(folder / entry.name, on_error):
                yield entry.name / path
        elif entry.is_file():
            yield Path(entry.name)


def files_in(folder: Path) -> list[Path]:
    """List a folder's files recursively: sorted, relative to it, without hidden ones.

    Raises `OSError`, but not for folders below it that this user may not list.
    """

    def pass_over(error: OSError) -> None:
        if not isinstance(error, PermissionError) or Path(error.filename) == folder:
            raise error

    return list(walk(folder, pass_over))


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
