"""Refusals before decoding, by the size in an image's header."""

from __future__ import annotations

from service.errors import ImageTooLargeError

# What a JPEG can have at most. Pillow keeps an address for each row: a PNG of one column and fifty
# million rows is 97 KB as a file, and would take a gigabyte.
_MAX_SIDE = 65_535


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse an image of many pixels. Raises `ImageTooLargeError`."""
    pixels = width * height
    if pixels > max_pixels:
        raise _too_large(f"the image has {width} x {height} = {pixels} pixels", max_pixels)
    if max(width, height) > _MAX_SIDE:
        raise _too_large(
            f"the image has {width} x {height} pixels, over {_MAX_SIDE} on a side", max_pixels
        )


def check_pixels(pixels: int, max_pixels: int) -> None:
    """Refuse an image whose tiles or frame hold more pixels than it. Raises as `check_size`."""
    if pixels > max_pixels:
        raise _too_large(f"the parts of the image hold {pixels} pixels", max_pixels)


def _too_large(what: str, max_pixels: int) -> ImageTooLargeError:
    return ImageTooLargeError(f"{what}; at most {max_pixels} pixels are allowed (max_image_pixels)")
