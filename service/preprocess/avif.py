"""AVIF (AV1 Image File Format 1.2): its still image, whose frames must match its header.

A decoder allocates memory by AV1's own header and decodes all frames before the displayed one,
whatever the surrounding file says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, features

from service.preprocess import heif
from service.preprocess.bits import Bits
from service.preprocess.color import to_rgb
from service.preprocess.encoded import (
    TURNS,
    corrupt,
    open_as,
    truncated,
    turned_size,
    unsupported,
)
from service.preprocess.heif_budget import Budget
from service.preprocess.limits import check_size

BRANDS = frozenset({b"avif", b"avis"})
CODED = frozenset({b"av01"})
"""Types of items that are coded pictures."""

_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6  # AV1's units (AV1 specification, section 6.2.2)
_MAX_FRAMES = 4  # per item, one for each layer that an image may have
_HEADER_BYTES = 128  # a sequence's header is shorter


@dataclass(kw_only=True)
class AvifImage(heif.HeifImage):
    """The primary image of an AVIF, rotated as the file's own properties say."""

    aperture: tuple[int, int, int, int]
    turn: int

    def to_rgb(self) -> Image.Image:
        """Decode to RGB, composited on white."""
        image = open_as("AVIF", self.data, self.coded_size)
        image.load()
        picture = to_rgb(image)
        if self.aperture != (0, 0, *self.coded_size):
            picture = picture.crop(self.aperture)
        return picture.transpose(TURNS[self.turn]) if self.turn in TURNS else picture


def read(data: bytes, max_pixels: int) -> AvifImage:
    """Read an AVIF's structure. Raises `RequestError` if it is broken or unsupported."""
    if not features.check("avif"):
        raise unsupported("AVIF files, with this build of Pillow,", "its wheels do support them")
    file = heif.read(data)
    size = file.size(data)
    check_size(*size, max_pixels)
    deep = False
    for item in file.pictures(data, CODED):
        deep = deep or _is_deep(item, data)
        _check(item.payload(data), item.size(data), file.budget)
    turn, aperture = file.orientation(data), file.aperture(data)
    left, top, right, bottom = aperture
    width, height = turned_size((right - left, bottom - top), turn)
    return AvifImage(
        width=width,
        height=height,
        data=heif.still(data, file, b"avif"),
        coded_size=size,
        is_deep=deep,
        aperture=aperture,
        turn=turn,
    )


def _check(stream: bytes, size: tuple[int, int], budget: Budget) -> None:
    """Refuse frames whose size differs from the header's, or too many of them."""
    frames, told = 0, False
    for kind, unit in _units(stream, budget):
        if kind == _SEQUENCE:
            told = True
            if budget.header_size(unit, _sequence_size) != size:
                raise corrupt("the size of its frames differs from its header")
        frames += kind in {_FRAME_HEADER, _FRAME}
    if not told:
        raise corrupt("its frames have no header")
    if frames > _MAX_FRAMES:
        raise corrupt(f"one of its pictures has {frames} frames")


def _is_deep(item: heif.Item, data: bytes) -> bool:
    """Return whether an item has, or may have, over 8 bits per channel (AV1-ISOBMFF, 2.3.3)."""
    flags = next((data[start + 2] for kind, start, _ in item.properties if kind == b"av1C"), 64)
    return bool(flags & 64)


def _units(stream: bytes, budget: Budget) -> Iterator[tuple[int, bytes]]:
    """Yield each unit's type and the beginning of its content."""
    at = 0
    while at < len(stream):
        budget.take()
        head = stream[at]
        at += 1 + (head >> 2 & 1)
        if head >> 1 & 1:
            length, at = _leb128(stream, at)
        else:
            length = len(stream) - at
        if length < 0 or at + length > len(stream):
            raise truncated()
        yield head >> 3 & 15, stream[at : at + min(length, _HEADER_BYTES)]
        at += length


def _leb128(stream: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(8):
        if at + i >= len(stream):
            break
        value |= (stream[at + i] & 127) << 7 * i
        if not stream[at + i] & 128:
            return value, at + i + 1
    raise truncated()


def _sequence_size(unit: bytes) -> tuple[int, int]:
    """Return the largest width and height of a sequence (AV1 specification, section 5.5.1)."""
    bits = Bits(unit.ljust(_HEADER_BYTES, b"\0"))
    bits.take(4)  # profile, and whether it is a still picture
    if bits.take(1):  # reduced header of a still picture
        bits.take(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


def _skip_operating_points(bits: Bits) -> None:
    delay_bits = 0
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            bits.take_counted()
        if bits.take(1):  # decoder model
            delay_bits = bits.take(5) + 1
            bits.take(32 + 5 + 5)
    has_display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_display_delay and bits.take(1):
            bits.take(4)
