"""What the strict reading of an image file gives: its size, its turn, and how to decode it.

Each format has a module whose `read` goes through the file's structure by itself, in bounded
steps, and hands to the decoding library only what pixels are made of. So the library can't see
another structure than the one that was judged: no metadata, no second picture, no odd tag.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from PIL import Image, ImageFile

from service.errors import CorruptImageError, TruncatedImageError, UnsupportedPixelsError

MAX_PIECES = 10_000
"""Pieces that a file may consist of however small it is; Python goes through them one by one."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image of each EXIF orientation upright; 1 is."""

SIDEWAYS = frozenset({5, 6, 7, 8})
"""Orientations that swap width and height."""


@dataclass(kw_only=True)
class EncodedImage(ABC):
    """A still image in a file; nothing of it has been decoded.

    `width` and `height` are as stored, before it is turned by `orientation` (EXIF's, 1 to 8).
    """

    width: int
    height: int
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as stored."""
        return self.width, self.height

    @property
    def decoded_size(self) -> tuple[int, int]:
        """Width and height of what `to_rgb` gives."""
        return self.size

    @property
    def pixels(self) -> int:
        """Pixels that its decoder goes through, those outside of the picture included."""
        return self.width * self.height

    def reduce(self, least: tuple[int, int]) -> tuple[float, float] | None:  # noqa: ARG002
        """Have it decoded smaller, each side at least as long as in `least`, if its format can.

        Gives the exact size, with fractions, at which the picture will lie in the decoded pixels:
        the last block of a row or column is only partly filled. None if nothing changes.
        """
        return None

    @abstractmethod
    def peak_bytes(self) -> int:
        """Estimate the peak of memory that `to_rgb` takes, its result included."""

    def spare_bytes(self) -> int:
        """Return what decoding may take beyond that if the file was made to take much.

        No honest file does, so it is no reason to refuse one; but others wait.
        """
        return 0

    @abstractmethod
    def to_rgb(self) -> Image.Image:
        """Decode to RGB, on white where it is transparent, not turned.

        Raises a `RequestError`, or whatever a decoding library makes of bad data.
        """


def open_as(name: str, data: bytes, size: tuple[int, int]) -> ImageFile.ImageFile:
    """Open a file of one format with Pillow.

    Raises `CorruptImageError` where Pillow sees another size, or whatever Pillow raises.
    """
    image = Image.open(io.BytesIO(data), formats=(name,))
    if image.size != size:
        raise CorruptImageError("the image's header contradicts itself about its size")
    return image


def on_canvas(picture: Image.Image, size: tuple[int, int], at: tuple[int, int]) -> Image.Image:
    """Put an RGB picture on a white canvas, which may be just as large."""
    if picture.size == size and at == (0, 0):
        return picture
    canvas = Image.new("RGB", size, "white")
    canvas.paste(picture, at)
    return canvas


def canvas_bytes(image: EncodedImage, picture: tuple[int, int]) -> int:
    """Return what the canvas takes of memory beside a picture that is to be put on it."""
    return 0 if picture == image.size else 4 * area(image.size)


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the size of an image of an EXIF orientation once it is upright."""
    return (size[1], size[0]) if orientation in SIDEWAYS else size


def area(size: tuple[int, int]) -> int:
    """Return the pixels of a size."""
    return math.prod(size)


def truncated() -> TruncatedImageError:
    """Make the error of a file that ends early."""
    return TruncatedImageError("the image's data ends before the image is complete")


def corrupt(why: str) -> CorruptImageError:
    """Make the error of a file that can't be what it begins as; `why` is a clause."""
    return CorruptImageError(f"the image is corrupt: {why}")


def unsupported(what: str, accepted: str) -> UnsupportedPixelsError:
    """Make the error of a sound image of a kind that is not decoded."""
    return UnsupportedPixelsError(f"{what} are not supported; {accepted}")
