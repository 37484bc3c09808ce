"""Converts pixels of any mode to RGB: grey, palette, CMYK, 16-bit, transparent."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import CorruptImageError


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image to RGB, composited on white if it has transparency.

    Raises `CorruptImageError`, or whatever Pillow raises for bad data.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        return image  # `convert` would copy it
    if image.mode == "P" and image.palette is None:
        raise CorruptImageError("the image has palette indices but no palette")
    if image.mode.startswith("I;16"):
        return _eight_bits(image).convert("RGB")
    return _on_white(image) if image.has_transparency_data else image.convert("RGB")


def from_palette(indices: NDArray[np.uint8], palette: NDArray[np.uint8]) -> Image.Image:
    """Convert indices [height, width] and a palette [256, 3] to RGB; numpy takes far longer."""
    image = Image.fromarray(np.ascontiguousarray(indices))
    image.putpalette(palette.tobytes())
    return image.convert("RGB")


def scale_transparency(image: Image.Image, bits: int) -> None:
    """Scale a PNG's transparent value to 8 bits like its pixels, which Pillow doesn't do."""
    transparent = image.info.get("transparency")
    if image.mode == "L" and bits in {2, 4} and isinstance(transparent, int):
        image.info["transparency"] = transparent * 255 // (2**bits - 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey to 8 bits, with any transparent value as white.

    Pillow's own conversion clips at 255 instead and ignores a transparent value.
    """
    table = scale_table(16)
    if isinstance(transparent := image.info.get("transparency"), int):
        table[transparent] = 255
    return Image.fromarray(table[np.asarray(image)])


def scale_table(bits: int) -> NDArray[np.uint8]:
    """Return a table that scales values of `bits` bits to 8, rounded."""
    largest = (1 << bits) - 1
    return ((np.arange(largest + 1) * 255 + largest // 2) // largest).astype(np.uint8)


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba)
    return white
