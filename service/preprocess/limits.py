"""Refusals before decoding: of images that are large, and of small files that ask for much work."""

from __future__ import annotations

import io
import math
from typing import Literal

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from service.errors import CorruptImageError, ImageTooLargeError

# What a JPEG can have at most. Pillow keeps an address for each row: a PNG of one column and fifty
# million rows is 97 KB as a file, and would take a gigabyte.
_MAX_SIDE = 65_535
# Each scan of a JPEG passes over all its pixels. So many are allowed for an image of
# `max_image_pixels`, and more for a smaller one.
_MAX_SCANS = 200
# Pillow copies all EXIF data so far for each further segment of it.
_MAX_EXIF_SEGMENTS = 1000
# Pillow goes through pieces of a file, as a JPEG's segments and a PNG's chunks, in Python.
_MAX_SEGMENTS = 10_000
_BYTES_PER_READ = 128  # a PNG's chunk takes three
_MAX_RUN_BYTES = 2_000_000
# Values of a TIFF's tag that Pillow makes numbers of; an image has at most one tile for each row.
_MAX_TAG_VALUES = 4 * _MAX_SIDE
# An image with planes for its colours has all of its area in each.
_MAX_PLANES = 8

JPEG_FORMATS = frozenset({"JPEG", "MPO"})
"""Pillow's names."""

JPEG_START, START_OF_SCAN, _EXIF = b"\xff\xd8", b"\xff\xda", b"Exif\0\0"
# Markers that a length follows, of those that a JPEG has before its pixels.
_SEGMENTS = {
    bytes([0xFF, marker])
    for marker in (0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE)
}
_TIFF_FORMS = {b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"II+\0", b"MM\0+"}
_ADDRESSES = {273, 324}  # of strips and of tiles
_TYPES_OF_BYTES = {1, 2, 7}  # BYTE, ASCII and UNDEFINED stay as they are
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags


class PieceReader(io.BytesIO):
    """A file's bytes for Pillow, which may be read in so many pieces.

    Small pieces cost far more than their bytes. Raises `CorruptImageError` from `read`.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _most_pieces(data)

    def read(self, size: int | None = -1, /) -> bytes:
        """Give the next bytes."""
        self._left -= 1
        if self._left < 0:
            raise CorruptImageError("the image's data is in far too many pieces")
        return super().read(size)


def _most_pieces(data: bytes) -> int:
    most = _MAX_SEGMENTS + len(data) // _BYTES_PER_READ
    # The runs of a compressed BMP are read byte by byte.
    return most + min(len(data), _MAX_RUN_BYTES) if data.startswith(b"BM") else most


def check_pieces(data: bytes) -> None:
    """Refuse what would be much work to open; raises `CorruptImageError`."""
    if data.startswith(JPEG_START) and _to_pixels(data)[0] > _MAX_EXIF_SEGMENTS:
        raise CorruptImageError(f"the image has more than {_MAX_EXIF_SEGMENTS} pieces of EXIF data")
    if data[:4] in _TIFF_FORMS and (most := _most_tag_values(data)) > _MAX_TAG_VALUES:
        raise CorruptImageError(f"the image has a tag of {most} values")


def _most_tag_values(data: bytes) -> int:
    """Give the largest count of numbers in a tag of a TIFF's first directory.

    TIFF 6.0, section 2, and BigTIFF (version 43), which has all but types of twice the size; told
    apart as Pillow does. Of addresses it makes numbers whatever their type.
    """
    order: Literal["little", "big"] = "little" if data.startswith(b"II") else "big"
    big = data[2] == 43
    size = 8 if big else 4  # bytes of an offset, and of a count of values
    at = int.from_bytes(data[size : 2 * size], order)
    head = 8 if big else 2
    # Of more entries than that, Pillow could not read the last.
    entries = min(int.from_bytes(data[at : at + head], order), _most_pieces(data))
    at += head
    most = 0
    for entry in range(at, at + entries * (4 + 2 * size), 4 + 2 * size):
        tag = int.from_bytes(data[entry : entry + 2], order)
        kind = int.from_bytes(data[entry + 2 : entry + 4], order)
        if kind not in _TYPES_OF_BYTES or tag in _ADDRESSES:
            most = max(most, int.from_bytes(data[entry + 4 : entry + 4 + size], order))
    return most


def _to_pixels(data: bytes) -> tuple[int, int | None]:
    """Go through a JPEG's segments up to its pixels: its pieces of EXIF data, and its first scan.

    If they are out of order, or very many, pieces are counted anywhere and no scan is given.
    """
    at, count, segments = len(JPEG_START), 0, 0
    while not data.startswith(START_OF_SCAN, at):
        segments += 1
        if (
            count > _MAX_EXIF_SEGMENTS
            or segments > _MAX_SEGMENTS
            or data[at : at + 2] not in _SEGMENTS
        ):
            return max(count, data.count(_EXIF)), None
        count += data.startswith(_EXIF, at + 4)
        at += 2 + max(int.from_bytes(data[at + 2 : at + 4]), 2)
    return count, at


def is_in_scans(image: Image.Image, data: bytes) -> bool:
    """Whether a JPEG's pixels are in several scans, of which each goes over all of them.

    That is so of progressive ones, and of baseline ones whose first scan has not all colours.
    """
    if image.format not in JPEG_FORMATS:
        return False
    if image.info.get("progressive"):
        return True
    _, scan = _to_pixels(data)
    return scan is None or data[scan + 4 : scan + 5] != bytes([len(image.getbands())])


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse by the size in its header an image of many pixels; raises `ImageTooLargeError`."""
    pixels = width * height
    if pixels > max_pixels:
        raise too_large(f"the image has {width} x {height} = {pixels} pixels", max_pixels)
    if max(width, height) > _MAX_SIDE:
        raise too_large(
            f"the image has {width} x {height} pixels, over {_MAX_SIDE} on a side", max_pixels
        )


def check_work(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Refuse by the header what would be much to decode; raises `ImageTooLargeError`."""
    check_size(*image.size, max_pixels)
    if isinstance(image, TiffImageFile):
        boxes = [tile[1] or (0, 0, *image.size) for tile in image.tile]
        area = sum([(right - left) * (lower - top) for left, top, right, lower in boxes])
        if area > _MAX_PLANES * math.prod(image.size):
            raise CorruptImageError("the image's parts cover it many times")
        # Each tile is decoded whole, however little of it lies inside the image.
        tile = [image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
        if all(isinstance(side, int) for side in tile) and math.prod(tile) > max_pixels:
            raise too_large(f"the image has tiles of {tile[0]} x {tile[1]} pixels", max_pixels)
    if is_in_scans(image, data):
        width, height = image.size
        scans = data.count(START_OF_SCAN)
        if scans * width * height > _MAX_SCANS * max_pixels:
            raise too_large(
                f"the image has {width} x {height} pixels in some {scans} scans, too much work",
                max_pixels,
            )


def too_large(what: str, max_pixels: int) -> ImageTooLargeError:
    """Make the error of an image that would be too much to decode."""
    return ImageTooLargeError(f"{what}; at most {max_pixels} pixels are allowed (max_image_pixels)")
