"""Writes a TIFF with only what libtiff and Pillow need to unpack some strips or tiles."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate

from service.preprocess import tiff_tags as tags
from service.preprocess.tiff_packing import NONE, Packing

_SHORT, _LONG, _UNDEFINED = 3, 4, 7
_SIZES = {_SHORT: 2, _LONG: 4, _UNDEFINED: 1}
_SHORTS = {
    tags.BITS, tags.COMPRESSION, tags.PHOTOMETRIC, tags.SAMPLES,
}  # fmt: skip


def write_tiff(
    packing: Packing,
    pieces: Sequence[bytes | memoryview],
    size: tuple[int, int],
    part_size: tuple[int, int],
    *,
    wide: int = 1,
    count: int = 1,
    tiled: bool,
) -> bytes:
    """Return a TIFF of the given parts, in which each pixel is `wide` pixels.

    Each has `count` samples or, if `count` equals `wide`, a single grey one.
    """
    rows, lengths = part_size[1], [len(piece) for piece in pieces]
    if packing.compression == NONE and not tiled:  # Pillow goes through strips one by one
        rows, lengths = size[1], [sum(lengths)]
    samples = 1 if wide == count else count
    entries: dict[int, list[int]] = {
        tags.WIDTH: [size[0] * wide],
        tags.HEIGHT: [size[1]],
        tags.BITS: [packing.bits] * samples,
        tags.COMPRESSION: [packing.compression],
        tags.PHOTOMETRIC: [_photometric(samples, is_ycbcr=packing.is_ycbcr)],
        tags.SAMPLES: [samples],
    }
    entries |= {tag: [value] for tag, value in packing.options.items()}
    if tiled:
        entries |= {tags.TILE_WIDTH: [part_size[0] * wide], tags.TILE_HEIGHT: [rows]}
    else:
        entries[tags.ROWS_PER_STRIP] = [rows]
    # The byte order only matters for 16 bits, and Pillow supports 12 bits in one order only.
    order = packing.order if packing.bits == 16 else "<"
    places = tags.TILE_OFFSETS if tiled else tags.STRIP_OFFSETS
    entries[places] = [
        8 + end - length for end, length in zip(accumulate(lengths), lengths, strict=True)
    ]
    entries[tags.TILE_COUNTS if tiled else tags.STRIP_COUNTS] = lengths
    return _file(entries, pieces, packing.tables, order)


def _photometric(count: int, *, is_ycbcr: bool) -> int:
    """Return the colour space to tell libtiff, which only matters for JPEGs."""
    if count == 3:
        return tags.YCBCR if is_ycbcr else tags.RGB
    return tags.CMYK if count == 4 else tags.BLACK_IS_ZERO


def _file(
    entries: dict[int, list[int]], pieces: Sequence[bytes | memoryview], tables: bytes, order: str
) -> bytes:
    """Return a TIFF: the header, the pieces, and the directory with its values."""
    at = 8 + sum(len(piece) for piece in pieces)
    number = len(entries) + bool(tables)
    outside, outside_at = list[bytes](), at + 2 + 12 * number + 4
    directory = [struct.pack(order + "H", number)]
    packed = {
        tag: (_SHORT, struct.pack(f"{order}{len(values)}H", *values))
        if tag in _SHORTS
        else (_LONG, struct.pack(f"{order}{len(values)}I", *values))
        for tag, values in entries.items()
    }
    if tables:
        packed[tags.JPEG_TABLES] = (_UNDEFINED, tables)
    for tag, (kind, content) in sorted(packed.items()):
        count = len(content) // _SIZES[kind]
        directory.append(struct.pack(order + "HHI", tag, kind, count))
        if len(content) <= 4:
            directory.append(content.ljust(4, b"\0"))
        else:
            directory.append(struct.pack(order + "I", outside_at))
            outside.append(content)
            outside_at += len(content)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return b"".join([head, *pieces, *directory, bytes(4), *outside])
