"""HEIF (ISO/IEC 23008-12), the container of AVIF and HEIC: an image's items and its rotation.

Only the parts of a still image are read, each box once and within its bounds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from fractions import Fraction

from service.errors import RequestError
from service.preprocess.encoded import (
    EncodedImage,
    area,
    corrupt,
    truncated,
    unsupported,
)
from service.preprocess.heif_budget import Budget

SIGNATURE = rb"....ftyp"
"""A pattern; the brands that follow it tell the formats apart."""

BRANDS = frozenset({b"mif1", b"miaf"})
"""Brands that do not tell how the image is coded."""

_FULL = 4  # bytes of version and flags at the start of most boxes
_MAX_ITEMS, _MAX_BRANDS = 4096, 64
_PARTS, _BESIDE = b"dimg", b"auxl"  # references to items: a grid's parts, the image of an alpha
_DERIVED = {b"iovl": "an overlay", b"iden": "derived from another"}  # derived items except grids
_EXIF_BY_TURN = {  # quarter turns to the left, then an axis to mirror along, if any
    (0, None): 1, (1, None): 8, (2, None): 3, (3, None): 6,
    (0, 0): 4, (1, 0): 5, (2, 0): 2, (3, 0): 7,
    (0, 1): 2, (1, 1): 7, (2, 1): 4, (3, 1): 5,
}  # fmt: skip

# Alpha, a thumbnail and a gain map beside the picture, and tiles that extend beyond it.
_MAX_PICTURES, _SPARE_PIXELS = 4, 2**20
# Measured: the decoder's planes, the library's, RGBA, and RGB.
_BYTES_PER_PIXEL, _BYTES_PER_DEEP_PIXEL = 13, 24

_Box = tuple[bytes, int, int]
"""A box's type, and the offsets where its content begins and ends."""


@dataclass
class Item:
    """An item: a coded picture, a grid of pictures, or metadata."""

    kind: bytes
    kind_at: int  # offset of its type in the file
    places: list[tuple[int, int]] = field(default_factory=list)  # where its bytes begin and end
    properties: list[_Box] = field(default_factory=list)

    def payload(self, data: bytes) -> bytes:
        """Return the item's bytes."""
        return b"".join(data[start:end] for start, end in self.places)

    def size(self, data: bytes) -> tuple[int, int]:
        """Return width and height from its property. Raises `CorruptImageError` without one."""
        for kind, start, end in self.properties:
            if kind == b"ispe" and end - start >= _FULL + 8:
                width, height = struct.unpack_from(">II", data, start + _FULL)
                if width and height:
                    return width, height
        raise corrupt("it has no pixels or does not say how many")


@dataclass
class Heif:
    """A file's items and their relations."""

    primary: int
    items: dict[int, Item]
    parts: dict[int, list[int]]  # of grids: the items that they consist of
    beside: dict[int, list[int]]  # of alpha and the like: the items that they belong to
    outer: list[_Box]  # the file's boxes, up to the last one with any of these
    budget: Budget  # what remains for the items

    @property
    def end(self) -> int:
        """Return the offset where the last box that contains part of the image ends."""
        return self.outer[-1][2]

    def size(self, data: bytes) -> tuple[int, int]:
        """Return the primary image's width and height, as coded."""
        return self.items[self.primary].size(data)

    def pictures(self, data: bytes, kinds: Set[bytes]) -> list[Item]:
        """Return the items that make up the primary image and its auxiliary images.

        Raises `RequestError` if they are of other kinds, or have far more pixels than the image.
        """
        tops = [self.primary, *(number for number, of in self.beside.items() if self.primary in of)]
        numbers = list(dict.fromkeys(part for top in tops for part in self.parts.get(top, [top])))
        if any(number not in self.items for number in [*tops, *numbers]):
            raise corrupt("a part of it is missing")
        for top in tops:
            kind = self.items[top].kind
            if top in self.parts and kind != b"grid":
                told = _DERIVED.get(kind, repr(kind.decode("latin-1")))
                raise unsupported(
                    f"HEIF files whose image is {told}", "single images and grids are"
                )
        found = [self.items[number] for number in numbers]
        for item in found:
            if item.kind not in kinds:
                told = item.kind.decode("latin-1")
                raise unsupported(f"HEIF files with parts of kind {told!r}", "AV1 and HEVC are")
        if sum(end - start for item in found for start, end in item.places) > len(data):
            raise corrupt("its parts share their data")
        pixels = sum(area(item.size(data)) for item in found)
        if pixels > _MAX_PICTURES * area(self.size(data)) + _SPARE_PIXELS:
            raise corrupt("its parts have far more pixels than the image")
        return found

    def kind(self) -> bytes:
        """Return the type of the primary image's item or, for a grid, of its first part."""
        first = self.parts.get(self.primary, [self.primary])[:1]
        return self.items[first[0]].kind if first and first[0] in self.items else b""

    def upright_size(self, data: bytes) -> tuple[int, int]:
        """Return the primary image's displayed size, after its rotations and crops in order."""
        width, height = self.size(data)
        for kind, start, end in self.items[self.primary].properties:
            if start < end and kind == b"irot" and data[start] & 1:
                width, height = height, width
            elif kind == b"clap":
                left, top, right, bottom = _aperture((width, height), data[start:end])
                width, height = right - left, bottom - top
        return width, height

    def aperture(self, data: bytes) -> tuple[int, int, int, int]:
        """Return the displayed part of the primary image: left, top, right, bottom.

        Raises `RequestError` if it does not consist of whole pixels within the image.
        """
        size = self.size(data)
        for kind, start, end in self.items[self.primary].properties:
            if kind == b"clap":
                return _aperture(size, data[start:end])
        return 0, 0, *size

    def orientation(self, data: bytes) -> int:
        """Return the primary item's rotation and mirroring as an EXIF orientation, 1 to 8."""
        quarters, axis = 0, None
        for kind, start, end in self.items[self.primary].properties:
            if start < end and kind == b"irot":
                quarters = data[start] & 3
            elif start < end and kind == b"imir":
                axis = data[start] & 1
        return _EXIF_BY_TURN[quarters, axis]


@dataclass(kw_only=True)
class HeifImage(EncodedImage):
    """The primary image of a HEIF file; possibly only part of it is displayed."""

    data: bytes = field(repr=False)
    coded_size: tuple[int, int]
    is_deep: bool  # more than 8 bits per channel

    @property
    def pixels(self) -> int:
        """Return the number of pixels that are decoded."""
        return area(self.coded_size)

    def peak_bytes(self) -> int:
        """Estimate the peak memory of decoding, in bytes."""
        each = _BYTES_PER_DEEP_PIXEL if self.is_deep else _BYTES_PER_PIXEL
        return 2 * len(self.data) + each * self.pixels


def brands(data: bytes) -> set[bytes]:
    """Return the brands of a file that matches `SIGNATURE`."""
    return {data[8:12], *(data[at : at + 4] for at in range(16, _brands_end(data), 4))}


def _brands_end(data: bytes) -> int:
    return min(int.from_bytes(data[:4]), len(data), 8 + 4 * _MAX_BRANDS) - 3


def boxes(data: bytes, at: int, end: int, budget: Budget) -> Iterator[_Box]:
    """Yield the boxes between two offsets. Raises `RequestError` if one extends beyond."""
    while at < end:
        budget.take()
        size, kind = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        elif size == 0:
            size = end - at
        if size < start - at:
            raise corrupt("one of its boxes is shorter than its own header")
        if at + size > end:
            raise truncated()
        yield kind, start, at + size
        at += size


def still(data: bytes, file: Heif, brand: bytes) -> bytes:
    """Return the file without video, metadata and trailers, which decoders would read."""
    patched = bytearray(memoryview(data)[: file.end])
    for at in (8, *range(16, _brands_end(data), 4)):  # a sequence's brand makes decoders want video
        patched[at : at + 4] = brand
    for kind, start, _ in file.outer:
        if kind == b"moov":  # its length may follow its name
            at = start - 4 if data[start - 4 : start] == kind else start - 12
            patched[at : at + 4] = b"free"
    for item in file.items.values():
        if item.kind in {b"Exif", b"mime"}:
            patched[item.kind_at : item.kind_at + 4] = b"none"
    return bytes(patched)


def read(data: bytes) -> Heif:
    """Read a file's items. Raises `RequestError` if it is broken or unsupported."""
    outer, whole = _outer(data)
    meta = next((box for box in outer if box[0] == b"meta"), None)
    if meta is None:
        if whole < len(data):
            raise truncated()
        raise unsupported("videos and sequences without a still image", "still images are")
    found, budget = dict[bytes, tuple[int, int]](), Budget.of(data)
    for kind, start, end in boxes(data, meta[1] + _FULL, meta[2], budget):
        if kind in found:
            raise corrupt(f"it has the box {kind.decode('latin-1')} twice")
        found[kind] = start, end
    for kind in (b"pitm", b"iinf", b"iloc", b"iprp"):
        if kind not in found:
            raise corrupt(f"its box {kind.decode('latin-1')} is missing")
    items = _items(data, *found[b"iinf"], budget)
    _places(data, found[b"iloc"], (0, whole), found.get(b"idat"), items, budget)
    _properties(data, *found[b"iprp"], items, budget)
    references: dict[bytes, dict[int, list[int]]] = {_PARTS: {}, _BESIDE: {}}
    if b"iref" in found:
        _refer(data, *found[b"iref"], references, budget)
    start, _ = found[b"pitm"]
    primary = _uint(data, start + _FULL, 4 if data[start] else 2)
    if primary not in items:
        raise corrupt("its primary item is missing")
    last = max([meta[2], *(place[1] for item in items.values() for place in item.places)])
    end = next(i for i, box in enumerate(outer) if box[2] >= last)
    return Heif(primary, items, references[_PARTS], references[_BESIDE], outer[: end + 1], budget)


def _outer(data: bytes) -> tuple[list[_Box], int]:
    """Return the boxes that the file consists of, and the offset where the last whole one ends.

    Phones append a video or a note of their own, which need not be a box.
    """
    found, at = list[_Box](), 0
    try:
        for box in boxes(data, 0, len(data), Budget.of(data)):
            found.append(box)
            at = box[2]
    except (RequestError, struct.error):
        if not found:
            raise
    return found, at


def _items(data: bytes, start: int, end: int, budget: Budget) -> dict[int, Item]:
    items: dict[int, Item] = {}
    count_size = 4 if data[start] else 2
    for kind, at, _ in boxes(data, start + _FULL + count_size, end, budget):
        version = data[at]
        if kind != b"infe" or version < 2:
            continue
        number_size = 2 if version == 2 else 4
        number = _uint(data, at + _FULL, number_size)
        kind_at = at + _FULL + number_size + 2
        if number in items or len(items) >= _MAX_ITEMS:
            raise corrupt("it has an item twice, or far too many items")
        items[number] = Item(data[kind_at : kind_at + 4], kind_at)
    return items


def _places(
    data: bytes,
    iloc: tuple[int, int],
    file: tuple[int, int],
    idat: tuple[int, int] | None,
    items: dict[int, Item],
    budget: Budget,
) -> None:
    """Record where each item's bytes are."""
    start, _ = iloc
    version = data[start]
    offset_size, length_size = data[start + 4] >> 4, data[start + 4] & 15
    base_size, index_size = data[start + 5] >> 4, data[start + 5] & 15 if version else 0
    wide = 4 if version == 2 else 2
    at = start + 6 + wide
    for _ in range(_uint(data, start + 6, wide)):
        number, method = _uint(data, at, wide), 0
        at += wide
        if version:
            method, at = data[at + 1] & 15, at + 2
        base = _uint(data, at + 2, base_size)
        extents = _uint(data, at + 2 + base_size, 2)
        at += 4 + base_size
        budget.take(1 + extents)
        item = items.get(number)
        for _ in range(extents):
            offset = base + _uint(data, at + index_size, offset_size)
            length = _uint(data, at + index_size + offset_size, length_size)
            at += index_size + offset_size + length_size
            if item is not None:
                item.places.append(_place(file, idat, method, offset, length))


def _place(
    file: tuple[int, int], idat: tuple[int, int] | None, method: int, offset: int, length: int
) -> tuple[int, int]:
    if method > 1 or (method == 1 and idat is None):
        raise corrupt("one of its items has no valid location")
    first, last = idat if method == 1 and idat is not None else file
    end = first + offset + length if length else last
    if first + offset > last or end > last:
        raise truncated()
    return first + offset, end


def _properties(data: bytes, start: int, end: int, items: dict[int, Item], budget: Budget) -> None:
    """Record each item's properties."""
    properties = list[_Box]()
    for kind, at, box_end in boxes(data, start, end, budget):
        if kind == b"ipco":
            properties = list(boxes(data, at, box_end, budget))
        elif kind == b"ipma":
            _associate(data, at, properties, items, budget)


def _associate(
    data: bytes, start: int, properties: list[_Box], items: dict[int, Item], budget: Budget
) -> None:
    number_size = 4 if data[start] else 2
    index_size = 2 if data[start + 3] & 1 else 1
    at = start + _FULL + 4
    for _ in range(_uint(data, start + _FULL, 4)):
        item = items.get(_uint(data, at, number_size))
        count = data[at + number_size]
        at += number_size + 1
        budget.take(1 + count)
        for _ in range(count):
            index = _uint(data, at, index_size) & (1 << 8 * index_size - 1) - 1
            at += index_size
            if item is not None and 0 < index <= len(properties):
                item.properties.append(properties[index - 1])


def _refer(
    data: bytes,
    start: int,
    end: int,
    wanted: dict[bytes, dict[int, list[int]]],
    budget: Budget,
) -> None:
    """Record the references between items, of the kinds in `wanted`.

    Raises `CorruptImageError` if an item refers to another twice.
    """
    size = 4 if data[start] else 2
    for kind, at, _ in boxes(data, start + _FULL, end, budget):
        if kind in wanted:
            count, first = _uint(data, at + size, 2), at + size + 2
            budget.take(count)
            numbers = [_uint(data, first + size * i, size) for i in range(count)]
            if len(set(numbers)) < count:
                raise corrupt("one of its items refers to another twice")
            wanted[kind][_uint(data, at, size)] = numbers


def _aperture(size: tuple[int, int], box: bytes) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the part of a picture that a `clap` box shows."""
    if len(box) < 32:
        raise truncated()
    w, w_of, h, h_of, x, x_of, y, y_of = struct.unpack_from(">IIIIiIiI", box)
    left, right = _shown(size[0], (w, w_of), (x, x_of))
    top, bottom = _shown(size[1], (h, h_of), (y, y_of))
    return left, top, right, bottom


def _shown(side: int, length: tuple[int, int], offset: tuple[int, int]) -> tuple[int, int]:
    """Return where the shown part of a side begins and ends; the offset is between the centres."""
    if not length[1] or not offset[1]:
        raise corrupt("its displayed part has no size")
    shown = Fraction(*length)
    begin = Fraction(*offset) + (side - shown) / 2
    if shown.denominator > 1 or begin.denominator > 1:
        raise unsupported("images that are cropped within pixels", "crops to whole pixels are")
    if begin < 0 or shown < 1 or begin + shown > side:
        raise corrupt("its displayed part is not within the image")
    return int(begin), int(begin + shown)


def _uint(data: bytes, at: int, size: int) -> int:
    """Return a big-endian unsigned integer. Raises `IndexError` beyond the end."""
    if at + size > len(data):
        raise IndexError(at)
    return int.from_bytes(data[at : at + size])
