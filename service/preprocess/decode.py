"""Encoded bytes to an upright RGB image.

The content decides the format, and only the formats listed here have a decoder: with Pillow's
full list, an EPS file would reach Ghostscript.
"""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image

from service.contract import Preprocessing
from service.errors import (
    CorruptImageError,
    EmptyImageError,
    NotAnImageError,
    RequestError,
    TruncatedImageError,
)
from service.preprocess import avif, bmp, gif, heic, heif, jpeg, png, tiff, tiff_tags, webp
from service.preprocess.encoded import SIDEWAYS, TURNS, EncodedImage, truncated, turned_size
from service.preprocess.limits import check_pixels, check_size
from service.preprocess.memory import DecodingMemory
from service.preprocess.plain_jpeg import decode_plain, plain_size
from service.preprocess.transform import Box, is_reduced, least_decoded_size, transform

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Names of the accepted formats, beside HEIC where that is set up."""


def _read_heif(data: bytes, max_pixels: int) -> EncodedImage:
    """Read a file that may be of either format, or of none that is accepted."""
    brands = heif.brands(data)
    if brands & avif.BRANDS:
        return avif.read(data, max_pixels)
    if brands & heic.BRANDS:
        return heic.read(data, max_pixels)
    if brands & heif.BRANDS:  # whatever the image is made of
        is_heic = heif.read(data).kind() in heic.CODED
        return heic.read(data, max_pixels) if is_heic else avif.read(data, max_pixels)
    raise _not_an_image()


# What files begin with. Only these formats have a decoder, whatever a request's header says.
_READERS: tuple[tuple[re.Pattern[bytes], Callable[[bytes, int], EncodedImage]], ...] = (
    (re.compile(re.escape(jpeg.SIGNATURE)), jpeg.read),
    (re.compile(re.escape(png.SIGNATURE)), png.read),
    (re.compile(webp.SIGNATURE, re.DOTALL), webp.read),
    (re.compile(gif.SIGNATURE), gif.read),
    (re.compile(bmp.SIGNATURE, re.DOTALL), bmp.read),
    (re.compile(tiff_tags.SIGNATURE), tiff.read),
    (re.compile(heif.SIGNATURE, re.DOTALL), _read_heif),
)

_AT_ONCE_BYTES, _AT_ONCE_SIDE = 16_384, 96  # the latter in pixels, of the image and for the model

_BYTES_PER_TURNED_PIXEL = 9  # both pictures, measured
_END_TO_LEFT = {2, 3, 6, 7}  # those that bring the right or lower edge to the left
_END_TO_TOP = {3, 4, 7, 8}  # those that bring it to the top


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
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # images are decoded on threads already
    warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, preprocessing: Preprocessing, policy: DecodePolicy) -> DecodedImage:
    """Decode one encoded image into the model's uint8 [crop, crop, 3] pixels.

    Transparent pixels are composited on white, 16-bit greys are scaled to 8 bits, CMYK and
    palettes become RGB, an animation gives its first frame.

    Raises `EmptyImageError`, `NotAnImageError`, `HeicNotSupportedError`, `ImageTooLargeError`,
    `TruncatedImageError`, `CorruptImageError` or `UnsupportedPixelsError`.
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
    with policy.memory.hold(size[0] * size[1] * jpeg.BYTES_PER_PIXEL):
        return _plain_image(data, size, preprocessing)


def _is_reduced(size: tuple[int, int], preprocessing: Preprocessing, policy: DecodePolicy) -> bool:
    return is_reduced(size, least_decoded_size(size, preprocessing, policy.jpeg_draft_ratio))


def _plain_image(
    data: bytes, size: tuple[int, int], preprocessing: Preprocessing
) -> DecodedImage | None:
    pixels = decode_plain(data, size)
    if pixels is None:
        return None
    if pixels.shape[:2] != (preprocessing.resize,) * 2 or preprocessing.crop < len(pixels):
        pixels = transform(Image.fromarray(pixels), preprocessing)
    return DecodedImage(pixels, *size)


def _decode_any(data: bytes, preprocessing: Preprocessing, policy: DecodePolicy) -> DecodedImage:
    image = read(data, policy.max_image_pixels)
    turn = image.orientation if preprocessing.exif == "apply" else 1
    width, height = turned_size(image.size, turn)
    with _told_apart():
        least = least_decoded_size(image.size, preprocessing, policy.jpeg_draft_ratio)
        extent = None if least is None else image.reduce(least)
    with policy.memory.hold(_peak_bytes(image, turn), image.spare_bytes()):
        upright = _upright(image, turn)
        content = _turned_content(extent, upright.size, turn)
        pixels = transform(upright, preprocessing, (width, height), content)
    return DecodedImage(pixels, width, height)


def decode_upright(data: bytes, policy: DecodePolicy) -> Image.Image:
    """Decode an image at its full size to RGB, turned as its EXIF data say.

    As `decode` does before it resizes; raises what that raises.
    """
    if not data:
        raise EmptyImageError("the image has no bytes")
    image = read(data, policy.max_image_pixels)
    with policy.memory.hold(_peak_bytes(image, image.orientation), image.spare_bytes()):
        return _upright(image, image.orientation)


def read(data: bytes, max_pixels: int) -> EncodedImage:
    """Read an image's structure; nothing is decoded.

    Raises `NotAnImageError`, `ImageTooLargeError`, or the `RequestError` of what is wrong with it.
    """
    for signature, reader in _READERS:
        if signature.match(data):
            try:
                image = reader(data, max_pixels)
            except (
                struct.error,
                IndexError,
                OverflowError,
            ) as error:  # they read where the file says
                raise truncated() from error
            except ValueError as error:
                raise _broken(error) from error
            check_pixels(image.pixels, max_pixels)
            return image
    raise _not_an_image()


def _not_an_image() -> NotAnImageError:
    accepted = (*FORMATS, "HEIC") if heic.is_installed() else FORMATS
    return NotAnImageError(
        f"the content is not in an accepted image format ({', '.join(accepted)})"
    )


def _peak_bytes(image: EncodedImage, turn: int) -> int:
    """Estimate the peak of memory: of decoding, or of turning what was decoded."""
    turning = _BYTES_PER_TURNED_PIXEL * math.prod(image.decoded_size) if turn in TURNS else 0
    return max(image.peak_bytes(), turning)


def _upright(image: EncodedImage, turn: int) -> Image.Image:
    """Decode an image to RGB and turn it."""
    with _told_apart():
        picture = image.to_rgb()
    return picture.transpose(TURNS[turn]) if turn in TURNS else picture


@contextmanager
def _told_apart() -> Generator[None]:
    """Raise whatever a decoding library makes of bad data as one of our errors.

    They raise far more than they document (a KeyError of a JPEG's sampling, say), and no file may
    be answered as if it was a defect of the service.
    """
    try:
        yield
    except (RequestError, MemoryError):
        raise
    except Exception as error:
        raise _broken(error) from error


def _broken(error: Exception) -> TruncatedImageError | CorruptImageError:
    """Tell data that ends early from data that is wrong; Pillow does so only in its messages."""
    message = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in message or "unexpected end" in message:
        return truncated()
    return CorruptImageError("the image's data is corrupt and can't be decoded")


def _turned_content(
    extent: tuple[float, float] | None, size: tuple[int, int], turn: int
) -> Box | None:
    """Find where in the upright pixels the picture lies, if that isn't all of them."""
    if extent is None:
        return None
    width, height = reversed(extent) if turn in SIDEWAYS else extent
    left = size[0] - width if turn in _END_TO_LEFT else 0.0
    top = size[1] - height if turn in _END_TO_TOP else 0.0
    return left, top, left + width, top + height
