"""The result of strictly reading an image file: its size, its orientation, and how to decode it.

Each format has a module whose `read` goes through the file's structure itself, in bounded steps,
and hands only the pixel data to the decoding library. So the library can't see a structure other
than the one that was checked: no metadata, no second picture, no odd tag.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from PIL import Image, ImageFile

from service.errors import CorruptImageError, TruncatedImageError, UnsupportedPixelsError

MAX_PIECES = 10_000
"""Pieces that even a small file may consist of; Python goes through them one by one."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that makes an image of each EXIF orientation upright; 1 needs none."""

SIDEWAYS = frozenset({5, 6, 7, 8})
"""Orientations that swap width and height."""


@dataclass(kw_only=True)
class EncodedImage(ABC):
    """A still image in a file, not decoded yet.

    `width` and `height` are as stored, before rotation by the EXIF `orientation` (1 to 8).
    """

    width: int
    height: int
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height as stored."""
        return self.width, self.height

    @property
    def decoded_size(self) -> tuple[int, int]:
        """Return width and height of the result of `to_rgb`."""
        return self.size

    @property
    def pixels(self) -> int:
        """Return the number of pixels that the decoder processes, even outside the picture."""
        return self.width * self.height

    def reduce(self, least: tuple[int, int]) -> tuple[float, float] | None:  # noqa: ARG002
        """Set the image to be decoded at a smaller size, at least `least`, if the format can.

        Returns the exact, fractional size of the picture within the decoded pixels: the last block
        of a row or column is only partly filled. None if nothing changes.
        """
        return None

    @abstractmethod
    def peak_bytes(self) -> int:
        """Estimate the peak memory of `to_rgb` in bytes, including its result."""

    def spare_bytes(self) -> int:
        """Return the bytes that decoding a malicious file may take beyond `peak_bytes`.

        No genuine file takes them, so they are no reason to refuse one; but others wait.
        """
        return 0

    @abstractmethod
    def to_rgb(self) -> Image.Image:
        """Decode to RGB as stored, composited on white.

        Raises a `RequestError`, or whatever a decoding library raises for bad data.
        """


def open_as(name: str, data: bytes, size: tuple[int, int]) -> ImageFile.ImageFile:
    """Open a file with Pillow as the format `name`.

    Raises `CorruptImageError` if Pillow sees a size other than `size`, or whatever Pillow raises.
    """
    image = Image.open(io.BytesIO(data), formats=(name,))
    if image.size != size:
        raise CorruptImageError("the image's header contradicts itself about its size")
    return image


def on_canvas(picture: Image.Image, size: tuple[int, int], at: tuple[int, int]) -> Image.Image:
    """Return an RGB picture placed on a white canvas, unless it fills the canvas."""
    if picture.size == size and at == (0, 0):
        return picture
    canvas = Image.new("RGB", size, "white")
    canvas.paste(picture, at)
    return canvas


def canvas_bytes(image: EncodedImage, picture: tuple[int, int]) -> int:
    """Return the bytes that a canvas takes in addition to the picture placed on it."""
    return 0 if picture == image.size else 4 * area(image.size)


def turned_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return an image's upright size, given its EXIF orientation."""
    return (size[1], size[0]) if orientation in SIDEWAYS else size


def area(size: tuple[int, int]) -> int:
    """Return the number of pixels of an image of this size."""
    return math.prod(size)


def truncated() -> TruncatedImageError:
    """Return the error for a file that ends early."""
    return TruncatedImageError("the image's data ends before the image is complete")


def corrupt(why: str) -> CorruptImageError:
    """Return the error for a corrupt file; `why` is a clause."""
    return CorruptImageError(f"the image is corrupt: {why}")


def unsupported(what: str, accepted: str) -> UnsupportedPixelsError:
    """Return the error for a valid image of an unsupported kind."""
    return UnsupportedPixelsError(f"{what} are not supported; {accepted}")
