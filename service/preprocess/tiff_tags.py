"""A TIFF's directory (TIFF 6.0, section 2, and BigTIFF): the tags that say how pixels are stored.

All others are ignored. Relevant tags are read strictly: they must be unique, have a valid type, and
be within the file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from service.preprocess.encoded import corrupt, truncated

SIGNATURE = rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0"
"""A pattern; the last two are from writers that only swap the version's bytes."""

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 257, 258, 259, 262, 266
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_COUNTS, PLANAR = (
    273, 274, 277, 278, 279, 284,
)  # fmt: skip
T4_OPTIONS, T6_OPTIONS, PREDICTOR, COLOR_MAP = 292, 293, 317, 320
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 322, 323, 324, 325
INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES = 332, 338, 339, 347
YCBCR_COEFFICIENTS, YCBCR_SUBSAMPLING, REFERENCE = 529, 530, 532
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6  # of PHOTOMETRIC
_READ = {
    WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, STRIP_OFFSETS, ORIENTATION, SAMPLES,
    ROWS_PER_STRIP, STRIP_COUNTS, PLANAR, T4_OPTIONS, T6_OPTIONS, PREDICTOR, COLOR_MAP, TILE_WIDTH,
    TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, INK_SET, EXTRA_SAMPLES, SAMPLE_FORMAT, JPEG_TABLES,
    YCBCR_COEFFICIENTS, YCBCR_SUBSAMPLING, REFERENCE,
}  # fmt: skip

_MAX_ENTRIES = 4096
_BIG = 43  # the version of BigTIFF
_INTEGERS = {
    1: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    8: "i2",
    9: "i4",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}  # types; like libtiff, this includes signed ones
_RATIONALS = {5: "u4", 10: "i4"}


@dataclass
class Directory:
    """The first directory of a TIFF: each relevant tag's type and the location of its values."""

    data: bytes = field(repr=False)
    order: str  # "<" or ">", as in struct
    entries: dict[int, tuple[int, int, int]]  # type, number of values, and their offset

    def numbers(self, tag: int, default: tuple[int, ...] = (), *, most: int = 16) -> list[int]:
        """Return a tag's integers. Raises `RequestError` if they are not integers or too many."""
        if tag not in self.entries:
            return list(default)
        kind, count, at = self.entries[tag]
        if kind not in _INTEGERS:
            raise corrupt(f"its tag {tag} has the wrong type ({kind})")
        values = self._values(tag, _INTEGERS[kind], count, at, most)
        if min(values) < 0:
            raise corrupt(f"its tag {tag} is negative")
        return values

    def number(self, tag: int, default: int) -> int:
        """Return a tag's integer, or the first of several."""
        return self.numbers(tag, (default,))[0]

    def fractions(self, tag: int, default: tuple[float, ...]) -> list[float]:
        """Return a tag's fractions."""
        if tag not in self.entries:
            return list(default)
        kind, count, at = self.entries[tag]
        if kind not in _RATIONALS:
            raise corrupt(f"its tag {tag} has the wrong type ({kind})")
        values = self._values(tag, _RATIONALS[kind], 2 * count, at, 16)
        return [a / b if b else 0.0 for a, b in zip(values[::2], values[1::2], strict=True)]

    def blob(self, tag: int) -> bytes:
        """Return a tag's bytes; empty if the tag is missing."""
        if tag not in self.entries:
            return b""
        _, count, at = self.entries[tag]
        if at + count > len(self.data):
            raise truncated()
        return self.data[at : at + count]

    def _values(self, tag: int, form: str, count: int, at: int, most: int) -> list[int]:
        if not 0 < count <= most:
            raise corrupt(f"its tag {tag} has {count} values")
        kind = np.dtype(self.order + form)
        if at + count * kind.itemsize > len(self.data):
            raise truncated()
        values: list[int] = np.frombuffer(self.data, kind, count, at).tolist()
        return values


def read_directory(data: bytes) -> Directory:
    """Read a TIFF's first directory. Raises `RequestError` if it is broken."""
    order = "<" if data.startswith(b"II") else ">"
    big = _BIG in data[2:4]
    word = "Q" if big else "I"  # of offsets and counts
    size = struct.calcsize(word)
    (at,) = struct.unpack_from(order + word, data, size)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    if count > _MAX_ENTRIES:
        raise corrupt(f"its directory has {count} tags")
    at += 8 if big else 2
    entries: dict[int, tuple[int, int, int]] = {}
    for entry in range(at, at + count * (4 + 2 * size), 4 + 2 * size):
        tag, kind, values = struct.unpack_from(f"{order}HH{word}", data, entry)
        if tag not in _READ:
            continue
        if tag in entries:
            raise corrupt(f"it has the tag {tag} twice")
        start = entry + 4 + size
        if values * _bytes_each(tag, kind) > size:
            (start,) = struct.unpack_from(order + word, data, start)
        entries[tag] = kind, values, start
    return Directory(data, order, entries)


def _bytes_each(tag: int, kind: int) -> int:
    if tag == JPEG_TABLES:
        return 1
    if kind in _RATIONALS:
        return 8
    if kind in _INTEGERS:
        return np.dtype(_INTEGERS[kind]).itemsize
    return 0  # refused where it is read
