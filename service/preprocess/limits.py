"""Limits on the size in an image's header, checked before decoding."""

from __future__ import annotations

from service.errors import ImageTooLargeError

# The limit of JPEG. Pillow keeps a pointer for each row: a PNG with one column and fifty million
# rows is a file of 97 KB but would take a gigabyte.
_MAX_SIDE = 65_535


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise `ImageTooLargeError` if an image has too many pixels, in all or on a side."""
    pixels = width * height
    if pixels > max_pixels:
        raise _too_large(f"the image has {width} x {height} = {pixels} pixels", max_pixels)
    if max(width, height) > _MAX_SIDE:
        raise _too_large(
            f"the image has {width} x {height} pixels, more than {_MAX_SIDE} on a side", max_pixels
        )


def check_pixels(pixels: int, max_pixels: int) -> None:
    """Raise `ImageTooLargeError` if an image's tiles or frame have too many pixels."""
    if pixels > max_pixels:
        raise _too_large(f"the parts of the image have {pixels} pixels", max_pixels)


def _too_large(what: str, max_pixels: int) -> ImageTooLargeError:
    return ImageTooLargeError(f"{what}; at most {max_pixels} pixels are allowed (max_image_pixels)")
