"""HEIC (ISO/IEC 23008-12, annex B), decoded by pillow-heif if that is installed.

It is an extra, since its wheel contains an encoder with a different licence. As with AVIF, HEVC's
own headers must match the surrounding file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from PIL import Image

from service.errors import HeicNotSupportedError
from service.preprocess import heif
from service.preprocess.bits import Bits
from service.preprocess.color import to_rgb
from service.preprocess.encoded import corrupt, truncated
from service.preprocess.heif_budget import Budget, Size
from service.preprocess.limits import check_size

BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})

CODED = frozenset({b"hvc1", b"hev1"})
"""Types of items that are coded pictures."""

_SEQUENCE = 33  # a NAL unit's type (ITU-T H.265, table 7-1); those below 32 hold pixels
_PIXELS_BELOW = 32
_MAX_FRAMES = 2
_CONFIGURATION = 22  # bytes of an hvcC box before its lists of units
_LARGEST_BLOCK = 64  # pictures are coded in blocks and cropped to their size
_HEADER_BYTES = 514  # a sequence header is shorter, up to its size fields
_MAX_SETS = 16  # of parameters in an hvcC box: encoders write three, some also a note of their own


@dataclass(kw_only=True)
class HeicImage(heif.HeifImage):
    """The primary image of a HEIC, which the decoder rotates as the file's properties say."""

    def to_rgb(self) -> Image.Image:
        """Decode to RGB, composited on white.

        A slice that ends early within a unit of the right length is not detected: the decoder
        silently fills in the rest.
        """
        import pillow_heif  # noqa: PLC0415 -- an extra

        file = pillow_heif.open_heif(self.data)  # decodes nothing yet
        picture = file[file.primary_index].to_pillow()
        if picture.size != self.size:
            raise corrupt("the size of its picture differs from its header")
        return to_rgb(picture)


@cache
def is_installed() -> bool:
    """Return whether the HEIC decoder is installed."""
    return importlib.util.find_spec("pillow_heif") is not None


def read(data: bytes, max_pixels: int) -> HeicImage:
    """Read a HEIC's structure.

    Raises `HeicNotSupportedError` without a decoder, or another `RequestError` that says what is
    wrong.
    """
    if not is_installed():
        raise HeicNotSupportedError(
            "the image is HEIC, which this server is not set up to decode; convert it to JPEG, or "
            "install the server with the extra: pip install '.[heic]'"
        )
    file = heif.read(data)
    size = file.size(data)
    check_size(*size, max_pixels)
    deep, configurations = False, dict[tuple[int, int], _Configuration]()
    for item in file.pictures(data, CODED):
        deep = deep or _is_deep(item, data)
        place = next(((s, e) for kind, s, e in item.properties if kind == b"hvcC"), None)
        if place is None:
            raise corrupt("its frames have no header")
        if place not in configurations:  # items may share one
            configurations[place] = _configuration(data[slice(*place)], file.budget)
        _check(data, item, configurations[place], file.budget)
    width, height = file.upright_size(data)
    return HeicImage(
        width=width,
        height=height,
        data=heif.still(data, file, b"heic"),
        coded_size=size,
        is_deep=deep,
    )


@dataclass(frozen=True)
class _Configuration:
    """What an hvcC box says about its pictures."""

    length_size: int  # bytes of each unit's length
    sizes: list[Size]  # from its sequence headers


def _check(data: bytes, item: heif.Item, configuration: _Configuration, budget: Budget) -> None:
    """Refuse frames whose size differs from the header's, or too many of them."""
    frames, sizes = 0, [*configuration.sizes]
    for unit in _units(item.payload(data), configuration.length_size, budget):
        kind = unit[0] >> 1 & 63
        if kind == _SEQUENCE:
            sizes.append(_size(unit, budget))
        frames += kind < _PIXELS_BELOW and len(unit) > 2 and unit[2] >> 7  # its first slice
    told = item.size(data)
    if not sizes or any(
        not 0 <= side - least < _LARGEST_BLOCK
        for size in sizes
        for side, least in zip(size, told, strict=True)
    ):
        raise corrupt("the size of its frames differs from its header")
    if frames > _MAX_FRAMES:
        raise corrupt(f"one of its pictures has {frames} frames")


def _is_deep(item: heif.Item, data: bytes) -> bool:
    """Return whether an item has, or may have, more than 8 bits per channel."""
    where = next((start for kind, start, _ in item.properties if kind == b"hvcC"), None)
    return where is None or bool((data[where + 17] | data[where + 18]) & 7)


def _configuration(box: bytes, budget: Budget) -> _Configuration:
    """Read an hvcC box (ISO/IEC 14496-15, section 8.3.3)."""
    if len(box) <= _CONFIGURATION:
        raise truncated()
    at, left, sizes = _CONFIGURATION + 1, _MAX_SETS, list[Size]()
    for _ in range(box[_CONFIGURATION]):
        if at + 3 > len(box):
            raise truncated()
        kind, count = box[at] & 63, int.from_bytes(box[at + 1 : at + 3])
        at, left = at + 3, left - count
        if left < 0:
            raise corrupt(f"its frames have more than {_MAX_SETS} parameter sets")
        budget.take(1 + count)
        for _ in range(count):
            length = int.from_bytes(box[at : at + 2])
            unit = box[at + 2 : at + 2 + length]
            if len(unit) < max(length, 2):
                raise truncated()
            if kind == _SEQUENCE:
                sizes.append(_size(unit, budget))
            at += 2 + length
    return _Configuration((box[21] & 3) + 1, sizes)


def _units(stream: bytes, length_size: int, budget: Budget) -> Iterator[bytes]:
    """Yield the units of an item, each of which is preceded by its length."""
    at = 0
    while at < len(stream):
        budget.take()
        length = int.from_bytes(stream[at : at + length_size])
        unit = stream[at + length_size : at + length_size + length]
        if len(unit) < max(length, 2):
            raise truncated()
        yield unit
        at += length_size + length


def _size(unit: bytes, budget: Budget) -> Size:
    """Return the width and height of coded pictures from a sequence header."""
    return budget.header_size(unit[:_HEADER_BYTES], _sequence_size)


def _sequence_size(unit: bytes) -> Size:
    """Parse the width and height (ITU-T H.265, section 7.3.2.2)."""
    bits = Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 88 + 8)  # the general profile and level
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)
    bits.take_counted()
    if bits.take_counted() == 3:  # 4:4:4
        bits.take(1)
    return bits.take_counted(), bits.take_counted()
