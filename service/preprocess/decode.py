"""Encoded bytes to an upright RGB image.

The content decides the format, and only the formats listed here have a decoder: with Pillow's
full list, an EPS file would reach Ghostscript.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from service.contract import Preprocessing
from service.errors import (
    CorruptImageError,
    EmptyImageError,
    NotAnImageError,
    RequestError,
    TruncatedImageError,
)
from service.preprocess.color import scale_transparency, to_rgb
from service.preprocess.limits import (
    JPEG_FORMATS,
    PieceReader,
    check_pieces,
    check_size,
    check_work,
    too_large,
)
from service.preprocess.memory import DecodingMemory, decoding_bytes, plain_jpeg_bytes
from service.preprocess.plain_jpeg import decode_plain, plain_size
from service.preprocess.transform import Box, resized_size, transform

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Pillow's names of the accepted formats."""

# What Pillow's decoders raise on bad data, beside OSError: found by feeding them broken files.
# Anything else is a defect, and is answered and logged as one.
_BROKEN = (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError,
           OverflowError, AssertionError, struct.error, zlib.error)  # fmt: skip

# What tells an image whose header is broken from what is no image. The two letters of a BMP say
# too little without a header size that exists.
_SIGNATURES = {
    rb"\xff\xd8\xff": "JPEG",
    rb"\x89PNG\r\n\x1a\n": "PNG",
    rb"RIFF....WEBP": "WEBP",
    rb"GIF8[79]a": "GIF",
    rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0": "BMP",
    rb"II[*+]\0|MM\0[*+]": "TIFF",
}

_AT_ONCE_BYTES, _AT_ONCE_SIDE = 16_384, 96  # the latter in pixels, of the image and for the model

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
_END_TO_LEFT = {2, 3, 6, 7}  # those that bring the right or lower edge to the left
_END_TO_TOP = {3, 4, 7, 8}  # those that bring it to the top
_TURNED_BACK = {6: 8, 8: 6}  # the others undo themselves


@dataclass(frozen=True, slots=True)
class DecodePolicy:
    """Limits and choices of decoding.

    `max_image_pixels` is checked on the header. `jpeg_draft_ratio` lets a JPEG be decoded at
    1/2, 1/4 or 1/8 size while both sides keep at least that many times the needed size; 0 never.
    `memory` limits what is decoded at a time.
    """

    max_image_pixels: int
    jpeg_draft_ratio: float
    memory: DecodingMemory = field(default_factory=DecodingMemory)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Pixels for the model, and the size at which a viewer shows the image."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


def prepare_decoding() -> None:
    """Load the decoders and quiet Pillow's warnings; call once, before threads start.

    They tell of odd metadata and of sizes that `max_image_pixels` judges here; each new text would
    be printed and kept. `warnings.catch_warnings` around a decode is not safe with threads.
    """
    Image.init()
    warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, preprocessing: Preprocessing, policy: DecodePolicy) -> DecodedImage:
    """Decode one encoded image into the model's uint8 [crop, crop, 3] pixels.

    Transparent pixels are composited on white, 16-bit greys are scaled to 8 bits, CMYK and
    palettes become RGB, an animation gives its first frame.

    Raises `EmptyImageError`, `NotAnImageError`, `ImageTooLargeError`, `TruncatedImageError`,
    `CorruptImageError` or `UnsupportedPixelsError`.
    """
    if not data:
        raise EmptyImageError("the image has no bytes")
    return _decode_plain(data, preprocessing, policy) or _decode_any(data, preprocessing, policy)


def decode_at_once(
    data: bytes, preprocessing: Preprocessing, policy: DecodePolicy
) -> DecodedImage | None:
    """Decode an image that takes less time than to hand it to another thread: some 0.05 ms.

    That is a small, plain, undamaged JPEG for a model of small images; None for any other. Raises
    `ImageTooLargeError`.
    """
    if len(data) > _AT_ONCE_BYTES or preprocessing.resize > _AT_ONCE_SIDE:
        return None
    size = plain_size(data)
    if size is None or max(size) > _AT_ONCE_SIDE or _is_reduced(size, preprocessing, policy):
        return None
    check_size(*size, policy.max_image_pixels)
    return _plain_image(data, size, preprocessing)


def _decode_plain(
    data: bytes, preprocessing: Preprocessing, policy: DecodePolicy
) -> DecodedImage | None:
    """Decode a plain JPEG at its full size; None if it is not one, or is to be reduced."""
    size = plain_size(data)
    if size is None:
        return None
    check_size(*size, policy.max_image_pixels)
    if _is_reduced(size, preprocessing, policy):
        return None
    with policy.memory.hold(plain_jpeg_bytes(*size)):
        return _plain_image(data, size, preprocessing)


def _is_reduced(size: tuple[int, int], preprocessing: Preprocessing, policy: DecodePolicy) -> bool:
    least = _draft_size(size, preprocessing, policy.jpeg_draft_ratio)
    return least is not None and min(size[0] // least[0], size[1] // least[1]) >= 2


def _plain_image(
    data: bytes, size: tuple[int, int], preprocessing: Preprocessing
) -> DecodedImage | None:
    pixels = decode_plain(data)
    if pixels is None:
        return None
    if pixels.shape[:2] != (preprocessing.resize,) * 2 or preprocessing.crop < len(pixels):
        pixels = transform(Image.fromarray(pixels), preprocessing)
    return DecodedImage(pixels, *size)


def _decode_any(data: bytes, preprocessing: Preprocessing, policy: DecodePolicy) -> DecodedImage:
    with _open(data, policy) as image:
        check_work(image, data, policy.max_image_pixels)
        width, height = image.size
        with _told_apart():
            extent = _draft(image, preprocessing, policy.jpeg_draft_ratio)
        with policy.memory.hold(decoding_bytes(image, data, (width, height))):
            upright, turn = _upright(image, data, preprocessing.exif)
            if turn in _SIDEWAYS:
                width, height = height, width
            content = _turned_content(extent, upright.size, turn)
            pixels = transform(upright, preprocessing, (width, height), content)
    return DecodedImage(pixels, width, height)


def decode_upright(data: bytes, policy: DecodePolicy) -> Image.Image:
    """Decode an image at its full size to RGB, turned as its EXIF data say.

    As `decode` does before it resizes; raises what that raises.
    """
    if not data:
        raise EmptyImageError("the image has no bytes")
    with _open(data, policy) as image:
        check_work(image, data, policy.max_image_pixels)
        with policy.memory.hold(decoding_bytes(image, data, image.size)):
            return _upright(image, data, "apply")[0]


def _upright(image: Image.Image, data: bytes, exif: str) -> tuple[Image.Image, int]:
    """Decode an opened image to RGB and turn it; gives by which orientation it was turned too."""
    with _told_apart():
        turn = _load(image, exif)
        if image.format == "PNG":
            scale_transparency(image, bits=data[24])  # where IHDR, always first, has them
        upright = to_rgb(image)
    return (upright.transpose(_TURNS[turn]) if turn in _TURNS else upright), turn


@contextmanager
def _told_apart() -> Generator[None]:
    """Raise what Pillow raises on bad data as one of our errors."""
    try:
        yield
    except _BROKEN as error:
        raise _broken(error) from error


def _open(data: bytes, policy: DecodePolicy) -> Image.Image:
    check_pieces(data)
    try:
        return Image.open(PieceReader(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise too_large("the image has far too many pixels", policy.max_image_pixels) from error
    except _BROKEN as error:
        raise _not_opened(data, error) from error


def _not_opened(data: bytes, error: Exception) -> RequestError:
    """Tell a broken image from what is no image, or none that is accepted."""
    for signature, name in _SIGNATURES.items():
        if re.match(signature, data, re.DOTALL):
            if isinstance(error, UnidentifiedImageError):
                return CorruptImageError(
                    f"the content begins as {name}, but its header is broken, cut off or of a "
                    "kind that is not supported"
                )
            return _broken(error)
    return NotAnImageError(
        f"the content is none of the accepted image formats ({', '.join(FORMATS)})"
    )


def _broken(error: Exception) -> TruncatedImageError | CorruptImageError:
    """Tell data that ends early from data that is wrong; Pillow does so only in its messages."""
    message = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in message or "unexpected end" in message:
        return TruncatedImageError("the image's data ends before the image is complete")
    return CorruptImageError("the image's data is corrupt and can't be decoded")


def _draft(
    image: Image.Image, preprocessing: Preprocessing, ratio: float
) -> tuple[float, float] | None:
    """Ask the JPEG decoder for a smaller image, where enough pixels remain for the resize.

    Gives the exact size, with fractions, at which the picture will lie in the decoded pixels: the
    last block of a row or column is only partly filled.
    """
    least = _draft_size(image.size, preprocessing, ratio)
    if least is None or image.format not in JPEG_FORMATS:
        return None
    drafted = image.draft(image.mode, least)
    return None if drafted is None else drafted[1][2:]


def _draft_size(
    size: tuple[int, int], preprocessing: Preprocessing, ratio: float
) -> tuple[int, int] | None:
    """Give the least size that an image may be reduced to while it is decoded; None: not at all."""
    if not ratio:
        return None
    width, height = resized_size(*size, preprocessing.resize)
    return int(width * ratio), int(height * ratio)


def _load(image: Image.Image, exif: str) -> int:
    """Decode, and give the orientation, 1 to 8, by which the pixels are still to be turned."""
    if image.format == "TIFF":  # Pillow turns it while it loads, and then forgets the tag
        stored = _orientation(image)
        image.load()
        return 1 if exif == "apply" else _TURNED_BACK.get(stored, stored)
    image.load()  # first: a PNG may have its EXIF data after the pixels
    return _orientation(image) if exif == "apply" else 1


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; broken EXIF is no reason to refuse a good image."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _BROKEN:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned_content(
    extent: tuple[float, float] | None, size: tuple[int, int], turn: int
) -> Box | None:
    """Find where in the upright pixels the picture lies, if that isn't all of them."""
    if extent is None:
        return None
    width, height = reversed(extent) if turn in _SIDEWAYS else extent
    left = size[0] - width if turn in _END_TO_LEFT else 0.0
    top = size[1] - height if turn in _END_TO_TOP else 0.0
    return left, top, left + width, top + height
