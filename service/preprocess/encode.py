"""Encodes pixels, so that they take the same way as an image file."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = Image.Image | NDArray[np.uint8]
"""A picture of Pillow's, or uint8 [H, W], [H, W, 3] or [H, W, 4]."""

_FAST = 1  # of zlib's levels; the best takes ten times as long and saves a few per cent

_OTHERS = {"CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "RGBX": "RGB",
           "RGBa": "RGBA", "La": "LA", "PA": "RGBA"}  # fmt: skip
"""Modes that PNG does not have, and what they are converted to."""


def png_of(image: Pixels) -> bytes:
    """Return a picture, or uint8 pixels, as a PNG. A picture's EXIF orientation is applied.

    Raises `TypeError` for anything else, and `ValueError` for arrays of another type or shape and
    for modes whose values have no stated range (F, I).
    """
    if isinstance(image, np.ndarray):
        picture = _picture(image)
    elif isinstance(image, Image.Image):
        picture = ImageOps.exif_transpose(image)
    else:
        raise TypeError(
            "an image is a file's path, its bytes, a picture of Pillow's or a uint8 array, "
            f"not {type(image).__name__}"
        )
    if picture.mode in {"F", "I"}:
        raise ValueError(f"pictures of mode {picture.mode} have no stated range; convert them")
    if picture.mode in _OTHERS:
        picture = picture.convert(_OTHERS[picture.mode])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=_FAST)
    return buffer.getvalue()


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels must be uint8 (0 to 255), got {pixels.dtype}")
    if not pixels.size or not (
        pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    ):
        raise ValueError(
            f"pixels must be [height, width], or [height, width, 3 or 4], got {list(pixels.shape)}"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))
