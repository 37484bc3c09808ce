"""Refusals before decoding: of images that are large, and of small files that ask for much work."""

from __future__ import annotations

import math

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from service.errors import CorruptImageError, ImageTooLargeError

# What a JPEG can have at most. Pillow keeps an address for each row: a PNG of one column and fifty
# million rows is 97 KB as a file, and would take a gigabyte.
_MAX_SIDE = 65_535
# Each scan of a progressive JPEG passes over all its pixels. So many are allowed for an image of
# `max_image_pixels`, and more for a smaller one.
_MAX_SCANS = 200
# Pillow copies all EXIF data so far for each further segment of it.
_MAX_EXIF_SEGMENTS = 1000

JPEG_START, START_OF_SCAN, _EXIF = b"\xff\xd8", b"\xff\xda", b"Exif\0\0"
# Markers that a length follows, of those that a JPEG has before its pixels.
_SEGMENTS = {
    bytes([0xFF, marker])
    for marker in (0xC0, 0xC1, 0xC2, 0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE)
}
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # TIFF tags


def check_segments(data: bytes) -> None:
    """Refuse what would be much work to open; raises `CorruptImageError`."""
    if data.startswith(JPEG_START) and _exif_segments(data) > _MAX_EXIF_SEGMENTS:
        raise CorruptImageError(f"the image has more than {_MAX_EXIF_SEGMENTS} pieces of EXIF data")


def _exif_segments(data: bytes) -> int:
    """Count a JPEG's pieces of EXIF data: up to its pixels, or anywhere if it is out of order."""
    at, count = len(JPEG_START), 0
    while not data.startswith(START_OF_SCAN, at):
        if count > _MAX_EXIF_SEGMENTS or data[at : at + 2] not in _SEGMENTS:
            return max(count, data.count(_EXIF))
        count += data.startswith(_EXIF, at + 4)
        at += 2 + max(int.from_bytes(data[at + 2 : at + 4]), 2)
    return count


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
        # Each tile is decoded whole, however little of it lies inside the image.
        tile = [image.tag_v2.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
        if all(isinstance(side, int) for side in tile) and math.prod(tile) > max_pixels:
            raise too_large(f"the image has tiles of {tile[0]} x {tile[1]} pixels", max_pixels)
    if image.info.get("progressive"):
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
