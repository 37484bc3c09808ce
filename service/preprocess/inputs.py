"""What Python callers may give as an image, and its encoded bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import UnreadableImageError

if TYPE_CHECKING:
    from service.preprocess.encode import Pixels

    Image = str | os.PathLike[str] | bytes | bytearray | memoryview | Pixels


def encoded(image: Image) -> bytes:
    """Return an image's bytes: a file's (str or path), as they are, or of pixels as a PNG.

    Pixels are a picture of Pillow's or a uint8 array, [H, W], [H, W, 3] or [H, W, 4].

    Raises `UnreadableImageError`, or `TypeError` for anything else.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except OSError as error:
            raise UnreadableImageError(
                f"{os.fspath(image)}: can't be read: {error.strerror or error}"
            ) from error
    return _png(image)


def encoded_each(images: Iterable[Image]) -> Iterator[bytes | UnreadableImageError]:
    """Yield each image's bytes, or why there are none."""
    for image in images:
        try:
            yield encoded(image)
        except UnreadableImageError as error:
            yield error


def _png(image: Pixels) -> bytes:
    from service.preprocess.encode import png_of  # noqa: PLC0415 - imports Pillow and numpy

    try:
        return png_of(image)
    except (ValueError, OSError) as error:
        raise UnreadableImageError(str(error)) from error
