"""From encoded bytes to an upright RGB image.

Formats are recognised by content, and only those listed here have a decoder: with Pillow's full
list, an EPS file would reach Ghostscript.
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
from service.preprocess.transform import (
    Box,
    held_bytes,
    is_input,
    is_reduced,
    least_decoded_size,
    transform,
)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""Names of the accepted formats, in addition to HEIC if it is installed."""


def _read_heif(data: bytes, max_pixels: int) -> EncodedImage:
    """Read the structure of an AVIF or HEIC file. Raises `NotAnImageError` if it is neither."""
    brands = heif.brands(data)
    if brands & avif.BRANDS:
        return avif.read(data, max_pixels)
    if brands & heic.BRANDS:
        return heic.read(data, max_pixels)
    if brands & heif.BRANDS:  # the coding of the image decides
        is_heic = heif.read(data).kind() in heic.CODED
        return heic.read(data, max_pixels) if is_heic else avif.read(data, max_pixels)
    raise _not_an_image()


# Signatures of files. Only these formats have a decoder, whatever a request's header says.
_READERS: tuple[tuple[re.Pattern[bytes], Callable[[bytes, int], EncodedImage]], ...] = (
    (re.compile(re.escape(jpeg.SIGNATURE)), jpeg.read),
    (re.compile(re.escape(png.SIGNATURE)), png.read),
    (re.compile(webp.SIGNATURE, re.DOTALL), webp.read),
    (re.compile(gif.SIGNATURE), gif.read),
    (re.compile(bmp.SIGNATURE, re.DOTALL), bmp.read),
    (re.compile(tiff_tags.SIGNATURE), tiff.read),
    (re.compile(heif.SIGNATURE, re.DOTALL), _read_heif),
)

_AT_ONCE_BYTES, _AT_ONCE_SIDE = 16_384, 96  # the side in pixels, of the image and of the model

_BYTES_PER_TURNED_PIXEL = 9  # both pictures, measured
_END_TO_LEFT = {2, 3, 6, 7}  # orientations that bring the right or lower edge to the left
_END_TO_TOP = {3, 4, 7, 8}  # orientations that bring it to the top


@dataclass(frozen=True, slots=True)
class DecodePolicy:
    """Limits and options of decoding.

    `max_image_pixels` is checked against the header. `jpeg_draft_ratio` lets JPEGs be decoded at
    1/2, 1/4 or 1/8 size if both sides stay at least that many times the needed size; 0 disables it.
    `memory` limits how much is decoded at a time.
    """

    max_image_pixels: int
    jpeg_draft_ratio: float
    memory: DecodingMemory = field(default_factory=DecodingMemory)


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Pixels for the model, and the image's size in pixels as displayed."""

    pixels: NDArray[np.uint8]
    width: int
    height: int


def prepare_decoding() -> None:
    """Load the decoders and silence Pillow's warnings; call it once, before threads start.

    The warnings are about odd metadata, and about sizes that `max_image_pixels` limits here; each
    new text would be printed and kept. `warnings.catch_warnings` is not thread-safe.
    """
    Image.init()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # images are already decoded on several threads
    warnings.filterwarnings("ignore", module=r"PIL\.")


def decode(data: bytes, preprocessing: Preprocessing, policy: DecodePolicy) -> DecodedImage:
    """Decode one encoded image into the model's uint8 [H, W, 3] pixels.

    Transparent pixels are composited on white, 16-bit greys are scaled to 8 bits, CMYK and
    palettes become RGB, and of an animation the first frame is used.

    Raises `EmptyImageError`, `NotAnImageError`, `HeicNotSupportedError`, `ImageTooLargeError`,
    `TruncatedImageError`, `CorruptImageError` or `UnsupportedPixelsError`.
    """
    if not data:
        raise EmptyImageError("the image has no bytes")
    return _decode_plain(data, preprocessing, policy) or _decode_any(data, preprocessing, policy)


def decode_at_once(
    data: bytes, preprocessing: Preprocessing, policy: DecodePolicy
) -> DecodedImage | None:
    """Decode an image that takes less time than handing it to another thread, some 0.05 ms.

    That is a small, plain, undamaged JPEG for a model with a small input; returns None for any
    other image. Raises `ImageTooLargeError`.
    """
    if len(data) > _AT_ONCE_BYTES or max(preprocessing.resize_to) > _AT_ONCE_SIDE:
        return None
    size = plain_size(data)
    if size is None or max(size) > _AT_ONCE_SIDE or _is_reduced(size, preprocessing, policy):
        return None
    check_size(*size, policy.max_image_pixels)
    return _plain_image(data, size, preprocessing)


def _decode_plain(
    data: bytes, preprocessing: Preprocessing, policy: DecodePolicy
) -> DecodedImage | None:
    """Decode a plain JPEG at full size; None if it is not plain or should be reduced."""
    size = plain_size(data)
    if size is None:
        return None
    check_size(*size, policy.max_image_pixels)
    if _is_reduced(size, preprocessing, policy):
        return None
    peak = size[0] * size[1] * jpeg.BYTES_PER_PIXEL + held_bytes(size, preprocessing)
    with policy.memory.hold(peak):
        return _plain_image(data, size, preprocessing)


def _is_reduced(size: tuple[int, int], preprocessing: Preprocessing, policy: DecodePolicy) -> bool:
    return is_reduced(size, least_decoded_size(size, preprocessing, policy.jpeg_draft_ratio))


def _plain_image(
    data: bytes, size: tuple[int, int], preprocessing: Preprocessing
) -> DecodedImage | None:
    pixels = decode_plain(data, size)
    if pixels is None:
        return None
    if not is_input(*size, preprocessing):
        pixels = transform(Image.fromarray(pixels), preprocessing)
    return DecodedImage(pixels, *size)


def _decode_any(data: bytes, preprocessing: Preprocessing, policy: DecodePolicy) -> DecodedImage:
    image = read(data, policy.max_image_pixels)
    turn = image.orientation if preprocessing.exif == "apply" else 1
    size = turned_size(image.size, turn)
    least = least_decoded_size(size, preprocessing, policy.jpeg_draft_ratio)
    more = held_bytes(size, preprocessing)
    with decoded(image, turn, least, policy.memory, more) as (upright, content):
        pixels = transform(upright, preprocessing, size, content)
    return DecodedImage(pixels, *size)


def decode_upright(data: bytes, policy: DecodePolicy) -> Image.Image:
    """Decode an image to RGB at full size, rotated by its EXIF orientation.

    This is what `decode` does before it resizes, and it raises the same errors.
    """
    if not data:
        raise EmptyImageError("the image has no bytes")
    image = read(data, policy.max_image_pixels)
    with decoded(image, image.orientation, None, policy.memory) as (upright, _):
        return upright


@contextmanager
def decoded(
    image: EncodedImage,
    turn: int,
    least: tuple[int, int] | None,
    memory: DecodingMemory,
    more_bytes: int = 0,
) -> Generator[tuple[Image.Image, Box | None]]:
    """Yield an image as RGB, rotated by an EXIF orientation `turn`, and the picture's box in it.

    It is decoded at a smaller size, `least` or more once rotated, if the format can. The box is
    None if the picture fills the pixels. The memory for decoding, and `more_bytes` for what the
    block does, is held until the block ends. Raises what `decode` does of an image that has been
    read.
    """
    with _told_apart():
        extent = None if least is None else image.reduce(turned_size(least, turn))
    with memory.hold(_peak_bytes(image, turn) + more_bytes, image.spare_bytes()):
        upright = _upright(image, turn)
        yield upright, _turned_content(extent, upright.size, turn)


def read(data: bytes, max_pixels: int) -> EncodedImage:
    """Read an image's structure without decoding it.

    Raises `NotAnImageError`, `ImageTooLargeError`, or another `RequestError` that says what is
    wrong.
    """
    for signature, reader in _READERS:
        if signature.match(data):
            try:
                image = reader(data, max_pixels)
            except (
                struct.error,
                IndexError,
                OverflowError,
            ) as error:  # from reading at an offset that the file gives
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
    """Estimate the peak memory of decoding and of rotating the result, in bytes."""
    turning = _BYTES_PER_TURNED_PIXEL * math.prod(image.decoded_size) if turn in TURNS else 0
    return max(image.peak_bytes(), turning)


def _upright(image: EncodedImage, turn: int) -> Image.Image:
    """Decode an image to RGB and rotate it."""
    with _told_apart():
        picture = image.to_rgb()
    return picture.transpose(TURNS[turn]) if turn in TURNS else picture


@contextmanager
def _told_apart() -> Generator[None]:
    """Turn whatever a decoding library raises for bad data into one of our errors.

    Libraries raise far more than they document (a KeyError for a JPEG's sampling, say), and a bad
    file must not be answered like a bug in the service.
    """
    try:
        yield
    except (RequestError, MemoryError):
        raise
    except Exception as error:
        raise _broken(error) from error


def _broken(error: Exception) -> TruncatedImageError | CorruptImageError:
    """Return the error for truncated or corrupt data; only Pillow's message shows which it is."""
    message = str(error).lower()
    if isinstance(error, EOFError) or "truncated" in message or "unexpected end" in message:
        return truncated()
    return CorruptImageError("the image's data is corrupt and can't be decoded")


def _turned_content(
    extent: tuple[float, float] | None, size: tuple[int, int], turn: int
) -> Box | None:
    """Return the box that the picture occupies in the upright pixels; None if it fills them."""
    if extent is None:
        return None
    width, height = reversed(extent) if turn in SIDEWAYS else extent
    left = size[0] - width if turn in _END_TO_LEFT else 0.0
    top = size[1] - height if turn in _END_TO_TOP else 0.0
    return left, top, left + width, top + height
