"""Encoded bytes to an upright RGB image.

The content decides the format, and only the formats listed here have a decoder: with Pillow's
full list, an EPS file would reach Ghostscript.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from service.contract import Preprocessing
from service.errors import (
    CorruptImageError,
    EmptyImageError,
    ImageTooLargeError,
    NotAnImageError,
    TruncatedImageError,
    UnsupportedPixelsError,
)
from service.preprocess.transform import resized_size, transform

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the accepted formats."""

# What Pillow's decoders raise on bad data, beside OSError: found by feeding them broken files.
# Anything else is a defect, and is answered and logged as one.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError,
           OverflowError, struct.error, zlib.error)  # fmt: skip

_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {5, 6, 7, 8}  # orientations that swap width and height


@dataclass(frozen=True, slots=True)
class DecodePolicy:
    """Limits and choices of decoding.

    `max_image_pixels` is checked on the header. `jpeg_draft_ratio` lets a JPEG be decoded at
    1/2, 1/4 or 1/8 size while both sides keep at least that many times the needed size; 0 never.
    """

    max_image_pixels: int
    jpeg_draft_ratio: float


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Pixels for the model, and the size at which a viewer shows the image."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


def prepare_decoding() -> None:
    """Load the decoders and quiet Pillow's size warning; call once, before threads start.

    The warning is printed between Pillow's own limit and twice that; `max_image_pixels` decides
    here, and `warnings.catch_warnings` around a decode would not be safe with threads.
    """
    Image.init()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(data: bytes, preprocessing: Preprocessing, policy: DecodePolicy) -> DecodedImage:
    """Decode one encoded image into the model's uint8 [crop, crop, 3] pixels.

    Transparent pixels are composited on white, 16-bit greys are scaled to 8 bits, CMYK and
    palettes become RGB, an animation gives its first frame.

    Raises `EmptyImageError`, `NotAnImageError`, `ImageTooLargeError`, `TruncatedImageError`,
    `CorruptImageError` or `UnsupportedPixelsError`.
    """
    if not data:
        raise EmptyImageError("the image has no bytes")
    with _open(data, policy) as image:
        width, height = image.size
        if image.format == "JPEG" and policy.jpeg_draft_ratio:
            _draft(image, preprocessing, policy.jpeg_draft_ratio)
        try:
            image.load()
        except _BROKEN as error:
            raise _broken(error) from error
        turn = _orientation(image) if preprocessing.exif == "apply" else 1
        upright = _to_rgb(image)
    if turn in _TURNS:
        upright = upright.transpose(_TURNS[turn])
    if turn in _SIDEWAYS:
        width, height = height, width
    return DecodedImage(transform(upright, preprocessing), width, height)


def _open(data: bytes, policy: DecodePolicy) -> Image.Image:
    too_large = f"at most {policy.max_image_pixels} pixels are allowed (max_image_pixels)"
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise NotAnImageError(
            f"the content is none of the accepted image formats ({', '.join(FORMATS)})"
        ) from error
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"the image has far too many pixels; {too_large}") from error
    except _BROKEN as error:
        raise _broken(error) from error
    width, height = image.size
    if width * height > policy.max_image_pixels:
        image.close()
        raise ImageTooLargeError(
            f"the image has {width} x {height} = {width * height} pixels; {too_large}"
        )
    return image


def _broken(error: Exception) -> TruncatedImageError | CorruptImageError:
    """Tell data that ends early from data that is wrong; Pillow does so only in its messages."""
    message = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in message or "unexpected end" in message:
        return TruncatedImageError("the image's data ends before the image is complete")
    return CorruptImageError("the image's header is good, but its data can't be decoded")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; broken EXIF is no reason to refuse a good image."""
    if image.format == "TIFF":
        return 1  # Pillow's TIFF decoder turns the image itself
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _draft(image: Image.Image, preprocessing: Preprocessing, ratio: float) -> None:
    """Ask the JPEG decoder for a smaller image, where enough pixels remain for the resize."""
    width, height = resized_size(*image.size, preprocessing.resize)
    image.draft(image.mode, (int(width * ratio), int(height * ratio)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = _rescale_16_bit(image)
    if image.mode in {"I", "F"}:
        raise UnsupportedPixelsError(
            f"pixels of mode {image.mode!r} (32 bits a channel) have no known range; "
            "8 or 16 bits a channel are accepted"
        )
    try:
        return _on_white(image) if image.has_transparency_data else image.convert("RGB")
    except ValueError as error:
        raise UnsupportedPixelsError(
            f"pixels of mode {image.mode!r} can't be converted to RGB"
        ) from error


def _rescale_16_bit(image: Image.Image) -> Image.Image:
    """Grey 0..65535 to 0..255; Pillow's own conversion clips at 255 instead."""
    grey = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    white.alpha_composite(rgba)
    return white.convert("RGB")
