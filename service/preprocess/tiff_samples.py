"""The samples of a TIFF: where its strips or tiles lie, and how they are unpacked.

What is packed goes to libtiff through Pillow, as a file made here: of grey, as wide as a pixel has
samples, so that nothing but unpacking is left to them. Predictors are undone here.
"""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from service.errors import ImageTooLargeError
from service.preprocess import jpeg, tiff_fax
from service.preprocess import tiff_tags as tags
from service.preprocess.deflate import unpacks_to
from service.preprocess.encoded import area, corrupt, open_as, truncated, unsupported
from service.preprocess.tiff_tags import Directory
from service.preprocess.tiff_ycbcr import WHOLE, Block, stored_size

NONE, _LZW, JPEG, _PACKBITS = 1, 5, 7, 32773
_GROUP3, _GROUP4 = 3, 4
_DEFLATE = {8, 32946}
_CCITT = {2, _GROUP3, _GROUP4, 32771}
_WITH_PREDICTOR = {_LZW, *_DEFLATE, 34925, 50000}  # LZW, deflate twice, LZMA, Zstandard
COMPRESSIONS = {NONE, JPEG, _PACKBITS, *_CCITT, *_WITH_PREDICTOR}
"""Values of the tag that are decoded."""

OTHER_COMPRESSIONS = {
    6: "old-style JPEG", 32809: "ThunderScan", 34676: "SGI LogLuv", 34712: "JPEG 2000",
    34887: "LERC", 50001: "WebP", 50002: "JPEG XL",
}  # fmt: skip
"""Names of some that are not: libtiff is not built with them, or would read the tags by itself."""

ACCEPTED = "none, CCITT, PackBits, LZW, deflate, LZMA, Zstandard and JPEG of 8 bits are"
"""Compressions, for messages."""

_MAX_PARTS = 300_000  # strips or tiles; a row each of the longest image with its colours apart
_BYTES_PER_PART = 800  # of Python's objects
# The format's smallest tiles are of 16 x 16 pixels; of smaller ones there may be some.
_PIXELS_PER_TILE, _SPARE_TILES = 64, 1000
# Each has tables to make ready. Writers have strips of 8 KB, and tiles of 64 x 64, or larger ones.
_PIXELS_PER_JPEG, _SPARE_JPEGS = 1024, 256
# Tiles reach beyond the image. More than this of nothing is no writer's doing.
_MAX_PADDING, _SPARE_PIXELS = 4, 2**22
# Writers that find equal tiles store them once. Each is unpacked, so a small file could mean much.
_MAX_SHARED = 2
# Columns of a part that tell if its rows are there; pixels that are unpacked at a time to see that.
_SHOWN, _PIXELS_AT_ONCE = 8, 2**22
_SHORT, _LONG, _UNDEFINED = 3, 4, 7
_SIZES = {_SHORT: 2, _LONG: 4, _UNDEFINED: 1}
_SHORTS = {
    tags.BITS, tags.COMPRESSION, tags.PHOTOMETRIC, tags.SAMPLES,
}  # fmt: skip
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(kw_only=True)
class Samples:
    """Strips or tiles of `part_size`, in rows, one set of them for each plane."""

    data: bytes = field(repr=False)
    order: str
    size: tuple[int, int]
    count: int  # samples of a pixel
    bits: int
    compression: int
    predictor: int
    planes: int
    part_size: tuple[int, int]
    tiled: bool
    tiled_pixels: int  # of all tiles of a plane, which are unpacked whole; else 0
    parts: list[tuple[int, int]] = field(repr=False)  # where each begins and ends
    reverse_bits: bool
    ycbcr: bool
    options: dict[int, int]  # tags for CCITT
    tables: bytes  # for JPEG

    def peak_bytes(self, colors: int) -> int:
        """Estimate the peak of memory: of unpacking, or of what is then made of the samples."""
        part = self.part_size[0] * self.part_size[1]
        each = 2 if self.bits > 8 else 1
        stored = self.size[0] * self.size[1] * self.count * each
        # Pillow's image, and its bytes twice while they are handed over.
        tables = _BYTES_PER_PART * len(self.parts)
        # A JPEG in several scans keeps its coefficients, of two bytes.
        unpacked = part * self.count * (3 if self.compression == JPEG else each)
        # To see if all rows of a fax are there, its codes are put together anew.
        packed = (4 if self.compression in _CCITT else 1) * len(self.data)
        return packed + tables + unpacked + max(3 * stored, stored + colors)

    def unpack(self) -> NDArray[np.unsignedinteger]:
        """Return the samples, [height, width, count]; of 8 bits or less in uint8, else in uint16.

        Raises a `RequestError`, or whatever Pillow makes of bad data.
        """
        self._check_whole()
        each = len(self.parts) // self.planes
        planes = [
            self._undo_predictor(self._plane(self.parts[at : at + each]))
            for at in range(0, len(self.parts), each)
        ]
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)

    def _check_whole(self) -> None:
        """Refuse parts that libtiff would unpack to less than their rows, and not tell.

        Of the other compressions it raises an error. A last row of CCITT that breaks off counts.
        """
        if self.compression == JPEG:
            for start, end in self.parts:
                jpeg.check_whole(self.data[start:end], self.tables)
        elif self.compression == _GROUP3:
            tagged = bool(self.options.get(tags.T4_OPTIONS, 0) & 1)
            rows = self._part_rows() * self.planes
            if (tiff_fax.lines(self._pieces(self.parts), rows, tagged=tagged) < rows).any():
                raise truncated()
        elif self.compression == _GROUP4:
            parts = list(zip(self.parts, self._part_rows() * self.planes, strict=True))
            # Some at a time, since what they unpack to is twice as much, or of low strips more.
            each = max(1, _PIXELS_AT_ONCE // ((self.part_size[0] + _SHOWN) * self.part_size[1] * 2))
            for at in range(0, len(parts), each):
                some = parts[at : at + each]
                shown = self._shown(some, black_begin=True)
                # They might be a part's own; then they are not if others are before it.
                if shown.any() and (shown & self._shown(some, black_begin=False)).any():
                    raise truncated()

    def _shown(
        self, parts: list[tuple[tuple[int, int], int]], *, black_begin: bool
    ) -> NDArray[np.bool_]:
        """Return whether the row behind each part's last is as one that was unpacked before.

        libtiff makes one row of a part's end, and leaves what was in its memory of the others. So
        that stands in a tile on the left, and the beginning of the part's rows is on the right.
        """
        width, high = self.part_size[0], self.part_size[1] + 1
        before = tiff_fax.group4_rows(high, width, black_begin=black_begin)
        pieces = tiff_fax.interleaved(self._pieces([part for part, _ in parts]), before)
        size = width + min(width, _SHOWN), high * len(parts)
        file = self._write_parts(pieces, size, (width, high), wide=1, count=1, tiled=True)
        with open_as("TIFF", file, size) as image:
            image.load()
            old = np.asarray(image.crop((0, 0, min(width, _SHOWN), 1)).convert("L"))
            rows = np.asarray(image.crop((width, 0, *size)).convert("L"))
        behind = np.arange(len(parts)) * high + [rows for _, rows in parts]
        shown: NDArray[np.bool_] = (rows[behind] == old).all(axis=-1)
        return shown

    def _ends_early(self, parts: list[tuple[int, int]]) -> bool:
        """Return whether parts of a plane that can't be unpacked are known to be too short."""
        if self.compression == _PACKBITS:  # of which nothing else can be wrong
            return True
        if self.compression not in _DEFLATE:
            return False
        row_bytes = (self.part_size[0] * self.count // self.planes * self.bits + 7) // 8
        lengths = [row_bytes * rows for rows in self._part_rows()]
        pieces = [memoryview(piece) for piece in self._pieces(parts)]
        try:
            return not all(
                unpacks_to(length, [piece]) for length, piece in zip(lengths, pieces, strict=True)
            )
        except zlib.error:
            return False

    def _part_rows(self) -> list[int]:
        """Return the rows of each part of one plane."""
        high, number = self.part_size[1], len(self.parts) // self.planes
        last = high if self.tiled else self.size[1] - high * (number - 1)
        return [high] * (number - 1) + [last]

    def _plane(self, parts: list[tuple[int, int]]) -> NDArray[np.unsignedinteger]:
        """Unpack one plane, or all samples if they are in one; [height, width, samples]."""
        width, height = self.size
        count = self.count // self.planes
        wide = 1 if self.compression == JPEG else count
        stored = -(-width // self.part_size[0]) * self.part_size[0] if self._is_laid_out else width
        with open_as("TIFF", self._file(parts, wide, count), (stored * wide, height)) as image:
            try:
                image.load()
            except OSError as error:
                if self._ends_early(parts):
                    raise truncated() from error
                raise
            values = np.asarray(image)
        if self.bits > 8:
            values = values.astype(np.uint16)  # in the order of bytes of this machine
        elif self.bits < 8:
            # Pillow has made 255 of the largest, or true.
            largest = 1 if self.bits == 1 else 255
            values = values.astype(np.uint8) // (largest // ((1 << self.bits) - 1))
        return values.reshape(height, stored, count)[:, :width]

    def _undo_predictor(self, values: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        """Add up what a predictor made differences of, along the rows of each part."""
        if self.predictor == 1:
            return values
        step = self.part_size[0]
        columns = [
            np.cumsum(values[:, at : at + step], axis=1, dtype=values.dtype)
            for at in range(0, self.size[0], step)
        ]
        return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)

    @property
    def _is_laid_out(self) -> bool:
        """Return whether tiles are joined here; one by one, uncompressed tiles take long."""
        bits = self.part_size[0] * self.count // self.planes * self.bits
        return self.tiled and self.compression == NONE and bits % 8 == 0

    def _lay_out(self, tiles: Sequence[bytes | memoryview]) -> bytes:
        """Put the rows of tiles beside one another, as far as the image goes down."""
        rows = self.part_size[1]
        across = -(-self.size[0] // self.part_size[0])
        stored = np.frombuffer(b"".join(tiles), np.uint8)
        return stored.reshape(len(tiles) // across, across, rows, -1).swapaxes(1, 2).tobytes()

    def _file(self, parts: list[tuple[int, int]], wide: int, count: int) -> bytes:
        """Make a TIFF of some parts, each of whose pixels is `wide` pixels of grey."""
        pieces = self._pieces(parts)
        tiled, width = self.tiled, self.size[0]
        if self._is_laid_out:
            pieces, tiled = [self._lay_out(pieces)], False
            width = -(-width // self.part_size[0]) * self.part_size[0]
        return self._write_parts(
            pieces, (width, self.size[1]), self.part_size, wide=wide, count=count, tiled=tiled
        )

    def _pieces(self, parts: list[tuple[int, int]]) -> list[bytes | memoryview]:
        """Return the bytes of some parts, as libtiff is to see them."""
        data = memoryview(self.data)
        pieces: list[bytes | memoryview] = [data[start:end] for start, end in parts]
        if self.reverse_bits and self.compression != JPEG:  # whose bytes have an order of their own
            pieces = [bytes(piece).translate(_REVERSED) for piece in pieces]
        return pieces

    def _write_parts(
        self,
        pieces: Sequence[bytes | memoryview],
        size: tuple[int, int],
        part_size: tuple[int, int],
        *,
        wide: int,
        count: int,
        tiled: bool,
    ) -> bytes:
        """Make a TIFF of parts of some size."""
        rows, lengths = part_size[1], [len(piece) for piece in pieces]
        if self.compression == NONE and not tiled:  # Pillow goes through strips one by one
            rows, lengths = size[1], [sum(lengths)]
        samples = 1 if wide == count else count
        entries: dict[int, list[int]] = {
            tags.WIDTH: [size[0] * wide],
            tags.HEIGHT: [size[1]],
            tags.BITS: [self.bits] * samples,
            tags.COMPRESSION: [self.compression],
            tags.PHOTOMETRIC: [_photometric(samples, ycbcr=self.ycbcr)],
            tags.SAMPLES: [samples],
        }
        entries |= {tag: [value] for tag, value in self.options.items()}
        if tiled:
            entries |= {tags.TILE_WIDTH: [part_size[0] * wide], tags.TILE_HEIGHT: [rows]}
        else:
            entries[tags.ROWS_PER_STRIP] = [rows]
        # Only of 16 bits the order matters, and Pillow knows 12 bits in one order alone.
        order = self.order if self.bits == 16 else "<"
        places = tags.TILE_OFFSETS if tiled else tags.STRIP_OFFSETS
        entries[places] = [
            8 + end - length for end, length in zip(accumulate(lengths), lengths, strict=True)
        ]
        entries[tags.TILE_COUNTS if tiled else tags.STRIP_COUNTS] = lengths
        return _write(entries, pieces, self.tables, order)


def read_samples(
    directory: Directory,
    size: tuple[int, int],
    count: int,
    bits: int,
    *,
    ycbcr: bool,
    block: Block | None = None,
) -> Samples:
    """Read where the samples are stored. Raises `RequestError` where that can't be.

    Where a `block` of pixels shares samples, a row of blocks is a row of single samples.
    """
    compression = directory.number(tags.COMPRESSION, NONE)
    planes = count if directory.number(tags.PLANAR, 1) == 2 else 1
    _check_kind(compression, count // planes, bits, ycbcr_planes=ycbcr and planes > 1)
    layout = _layout(directory, size, planes)
    if compression == JPEG and len(layout.rows) > area(size) // _PIXELS_PER_JPEG + _SPARE_JPEGS:
        raise unsupported(
            f"TIFFs of {len(layout.rows)} JPEGs with {area(size)} pixels",
            f"one for every {_PIXELS_PER_JPEG} pixels is, and {_SPARE_JPEGS} more",
        )
    tiled_pixels = area(layout.part_size) * len(layout.rows) // planes if layout.tiled else 0
    predictor = _predictor(directory, compression, bits)
    if block is not None and block != WHOLE:
        if predictor != 1 or (len(layout.rows) > 1 and layout.part_size[1] % block[1]):
            raise unsupported("TIFFs of subsampled YCbCr in such strips or differences", ACCEPTED)
        size, count = stored_size(size, block), 1
        layout = _Layout(
            layout.tiled,
            stored_size(layout.part_size, block),
            [-(-rows // block[1]) for rows in layout.rows],
        )
    row_bits = layout.part_size[0] * count // planes * bits
    samples = Samples(
        data=directory.data,
        order=directory.order,
        size=size,
        count=count,
        bits=bits,
        compression=compression,
        predictor=predictor,
        planes=planes,
        part_size=layout.part_size,
        tiled=layout.tiled,
        tiled_pixels=tiled_pixels,
        parts=_parts(directory, layout, (row_bits + 7) // 8 if compression == NONE else 0),
        reverse_bits=directory.number(tags.FILL_ORDER, 1) == 2,
        ycbcr=ycbcr,
        options=_options(directory, compression),
        tables=jpeg.read_tables(directory.blob(tags.JPEG_TABLES)) if compression == JPEG else b"",
    )
    _check_parts(samples, layout.rows)
    return samples


@dataclass
class _Layout:
    """How an image is cut into parts."""

    tiled: bool
    part_size: tuple[int, int]
    rows: list[int]  # of each part of all planes


def _layout(directory: Directory, size: tuple[int, int], planes: int) -> _Layout:
    width, height = size
    if tags.TILE_WIDTH in directory.entries:
        side = directory.number(tags.TILE_WIDTH, 0), directory.number(tags.TILE_HEIGHT, 0)
        if not all(side):
            raise corrupt("its tiles have no size")
        across, down = -(-width // side[0]), -(-height // side[1])
        padded = across * side[0] * down * side[1]
        if padded > _MAX_PADDING * width * height + _SPARE_PIXELS:
            raise ImageTooLargeError(
                f"the image has {width} x {height} pixels, and tiles of {side[0]} x {side[1]} "
                f"that hold {padded}; at most {_MAX_PADDING} times its pixels are allowed, "
                f"and {_SPARE_PIXELS} more"
            )
        number, rows = across * down * planes, [side[1]]
        if across * down > width * height // _PIXELS_PER_TILE + _SPARE_TILES:
            raise corrupt(f"it has {number} tiles of {side[0]} x {side[1]} pixels")
    else:
        # Without a number, or with 0, one strip has all rows.
        side = width, min(directory.number(tags.ROWS_PER_STRIP, 0) or height, height)
        number = -(-height // side[1]) * planes
        rows = [side[1]] * (height // side[1]) + [height % side[1]] * (height % side[1] > 0)
    if number > _MAX_PARTS:
        raise corrupt(f"it has {number} strips or tiles")
    return _Layout(tags.TILE_WIDTH in directory.entries, side, rows * (number // len(rows)))


def _parts(directory: Directory, layout: _Layout, row_bytes: int) -> list[tuple[int, int]]:
    """Return where each part begins and ends; `row_bytes` gives its length if known."""
    number = len(layout.rows)
    wanted = (tags.TILE_OFFSETS, tags.STRIP_OFFSETS)[:: 1 if layout.tiled else -1]
    starts = next(
        (directory.numbers(tag, most=_MAX_PARTS) for tag in wanted if tag in directory.entries), []
    )
    if len(starts) < number:
        raise corrupt(f"it has {number} strips or tiles, and tells of {len(starts)}")
    if 0 in starts[:number]:
        raise unsupported("TIFFs that lack some of their strips or tiles", "whole ones are")
    if row_bytes:
        lengths = [row_bytes * rows for rows in layout.rows]
    else:
        lengths = _lengths(directory, starts, number)
    parts = [(start, start + n) for start, n in zip(starts, lengths, strict=False)]
    if max(end for _, end in parts) > len(directory.data):
        raise truncated()
    if sum(lengths) > _MAX_SHARED * len(directory.data):
        raise corrupt("its strips or tiles share their data")
    return parts


def _lengths(directory: Directory, starts: list[int], number: int) -> list[int]:
    """Return the lengths of packed parts; what has none ends where the next or the file does."""
    counts = (tags.TILE_COUNTS, tags.STRIP_COUNTS)
    tag = next((tag for tag in counts if tag in directory.entries), 0)
    lengths = directory.numbers(tag, (0,), most=_MAX_PARTS)[:number] if tag else []
    if len(lengths) == number and 0 not in lengths:
        return lengths
    lengths += [0] * (number - len(lengths))
    ends = sorted({*starts[:number], len(directory.data)})
    if ends[-1] > len(directory.data):
        raise truncated()
    return [
        length or ends[min(bisect_right(ends, start), len(ends) - 1)] - start
        for start, length in zip(starts, lengths, strict=False)
    ]


def _check_kind(compression: int, count: int, bits: int, *, ycbcr_planes: bool) -> None:
    """Refuse by name what the compression is not for, or is not decoded of it."""
    if ycbcr_planes and compression == JPEG:
        raise unsupported("TIFFs of JPEGs in planes of YCbCr", ACCEPTED)
    if compression in _CCITT and (bits != 1 or count != 1):
        raise corrupt("its compression is for one bit a pixel")
    if compression == JPEG and (bits != 8 or count not in {1, 3, 4}):
        raise unsupported(f"TIFFs of JPEGs of {count} samples of {bits} bits", ACCEPTED)


def _predictor(directory: Directory, compression: int, bits: int) -> int:
    """Return 2 if the samples are stored as differences, else 1."""
    predictor = directory.number(tags.PREDICTOR, 1)
    if predictor == 1 or compression not in _WITH_PREDICTOR:
        return 1
    if predictor != 2 or bits not in {8, 16}:
        raise unsupported(f"TIFFs of {bits} bits with predictor {predictor}", ACCEPTED)
    return 2


def _options(directory: Directory, compression: int) -> dict[int, int]:
    wanted = {3: tags.T4_OPTIONS, 4: tags.T6_OPTIONS}.get(compression)
    return {wanted: directory.number(wanted, 0)} if wanted in directory.entries else {}


def _check_parts(samples: Samples, rows: list[int]) -> None:
    """Refuse JPEGs that are not just what their part of the image is."""
    if samples.compression != JPEG:
        return
    width = samples.part_size[0]
    for (start, end), height in zip(samples.parts, rows, strict=True):
        # The last strip may be as high as the others.
        sizes = {(width, height), (width, samples.part_size[1])}
        jpeg.check_part(samples.data[start:end], sizes, samples.count // samples.planes)


def _photometric(count: int, *, ycbcr: bool) -> int:
    """Return what libtiff is told of the colours, which only matters for JPEGs."""
    if count == 3:
        return tags.YCBCR if ycbcr else tags.RGB
    return tags.CMYK if count == 4 else tags.BLACK_IS_ZERO


def _write(
    entries: dict[int, list[int]], pieces: Sequence[bytes | memoryview], tables: bytes, order: str
) -> bytes:
    """Write a TIFF: the header, its pieces, and its directory, of SHORTs and LONGs."""
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
