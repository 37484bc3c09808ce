"""The samples of a TIFF: where its strips or tiles are, and how they are unpacked.

Packed parts go to libtiff through Pillow, in a grey file written here with one pixel per sample, so
that the libraries only unpack. Predictors are undone here.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.preprocess import jpeg, tiff_fax
from service.preprocess import tiff_tags as tags
from service.preprocess.deflate import unpacks_to
from service.preprocess.encoded import area, open_as, truncated, unsupported
from service.preprocess.tiff_packing import (
    ACCEPTED,
    CCITT,
    DEFLATE,
    JPEG,
    NONE,
    PACKBITS,
    Packing,
    read_packing,
    read_predictor,
)
from service.preprocess.tiff_parts import Layout, check_number, read_layout, read_places
from service.preprocess.tiff_tags import Directory
from service.preprocess.tiff_write import write_tiff
from service.preprocess.tiff_ycbcr import WHOLE, Block, stored_size

_BYTES_PER_PART = 800  # of Python's objects
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(kw_only=True)
class Samples:
    """Strips or tiles in row order, one set for each plane."""

    data: bytes = field(repr=False)
    size: tuple[int, int]
    count: int  # samples per pixel
    planes: int
    packing: Packing
    predictor: int
    layout: Layout
    tiled_pixels: int  # in all tiles of a plane, which are unpacked whole; 0 for strips
    places: list[tuple[int, int]] = field(repr=False)  # where each part begins and ends
    reverse_bits: bool

    def peak_bytes(self, colors: int) -> int:
        """Estimate the peak memory in bytes; computing the colours afterwards takes `colors`."""
        each = 2 if self.packing.bits > 8 else 1
        stored = area(self.size) * self.count * each
        tables = _BYTES_PER_PART * len(self.places)
        # A JPEG with several scans keeps its coefficients, of two bytes each.
        each = 3 if self.packing.compression == JPEG else each
        unpacked = area(self.layout.part_size) * self.count * each
        # Checking that a fax has all its rows takes copies of its codes.
        packed = (4 if self.packing.compression in CCITT else 1) * len(self.data)
        # Pillow's image, and two copies of its bytes during conversion.
        return packed + tables + unpacked + max(3 * stored, stored + colors)

    def unpack(self) -> NDArray[np.unsignedinteger]:
        """Return the samples [height, width, count], uint8 for up to 8 bits, otherwise uint16.

        Raises a `RequestError`, or whatever Pillow raises for bad data.
        """
        self._check_whole()
        each = len(self.places) // self.planes
        planes = [
            self._undo_predictor(self._plane(self.places[at : at + each]))
            for at in range(0, len(self.places), each)
        ]
        return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=-1)

    def _check_whole(self) -> None:
        """Raise an error for incomplete parts that libtiff would accept silently.

        For other compressions libtiff reports them. JPEGs must also have their part's size.
        """
        size, rows = self.layout.part_size, self.layout.rows
        if self.packing.compression == JPEG:
            channels = self.count // self.planes
            for (start, end), high in zip(self.places, rows, strict=True):
                # The last strip may be as high as the others.
                sizes = {(size[0], high), size}
                jpeg.check_part(self.data[start:end], self.packing.tables, sizes, channels)
        elif self.packing.compression in CCITT:
            tiff_fax.check_rows(self.packing, self._pieces(self.places), rows, size)

    def _ends_early(self, places: list[tuple[int, int]]) -> bool:
        """Return whether a plane that can't be unpacked is known to have truncated parts."""
        if self.packing.compression == PACKBITS:  # it can't be wrong in any other way
            return True
        if self.packing.compression not in DEFLATE:
            return False
        lengths = [self._row_bytes * rows for rows in self.layout.rows[: len(places)]]
        pieces = [memoryview(piece) for piece in self._pieces(places)]
        try:
            return not all(
                unpacks_to(length, [piece]) for length, piece in zip(lengths, pieces, strict=True)
            )
        except zlib.error:
            return False

    @property
    def _row_bytes(self) -> int:
        """Return the number of bytes in a part's row."""
        return (self.layout.part_size[0] * self.count // self.planes * self.packing.bits + 7) // 8

    def _plane(self, places: list[tuple[int, int]]) -> NDArray[np.unsignedinteger]:
        """Unpack one plane, or all samples if there is only one, as [height, width, samples]."""
        (width, height), bits = self.size, self.packing.bits
        count = self.count // self.planes
        wide = 1 if self.packing.compression == JPEG else count
        side = self.layout.part_size[0]
        stored = -(-width // side) * side if self._is_laid_out else width
        with open_as("TIFF", self._file(places, wide, count), (stored * wide, height)) as image:
            try:
                image.load()
            except OSError as error:
                if self._ends_early(places):
                    raise truncated() from error
                raise
            values = np.asarray(image)
        if bits > 8:
            values = values.astype(np.uint16)  # in native byte order
        elif bits < 8:
            # Pillow has scaled the largest value to 255, or converted it to true.
            largest = 1 if bits == 1 else 255
            values = values.astype(np.uint8) // (largest // ((1 << bits) - 1))
        return values.reshape(height, stored, count)[:, :width]

    def _undo_predictor(self, values: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
        """Undo a predictor by summing up differences along the rows of each part."""
        if self.predictor == 1:
            return values
        step = self.layout.part_size[0]
        columns = [
            np.cumsum(values[:, at : at + step], axis=1, dtype=values.dtype)
            for at in range(0, self.size[0], step)
        ]
        return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)

    @property
    def _is_laid_out(self) -> bool:
        """Return whether tiles are joined here, since single uncompressed tiles take long."""
        bits = self.layout.part_size[0] * self.count // self.planes * self.packing.bits
        return self.layout.tiled and self.packing.compression == NONE and bits % 8 == 0

    def _lay_out(self, tiles: Sequence[bytes | memoryview]) -> bytes:
        """Join tiles into full rows."""
        side, rows = self.layout.part_size
        across = -(-self.size[0] // side)
        stored = np.frombuffer(b"".join(tiles), np.uint8)
        return stored.reshape(len(tiles) // across, across, rows, -1).swapaxes(1, 2).tobytes()

    def _file(self, places: list[tuple[int, int]], wide: int, count: int) -> bytes:
        """Return a TIFF of some parts, in which each pixel is `wide` pixels."""
        pieces, side = self._pieces(places), self.layout.part_size
        tiled, width = self.layout.tiled, self.size[0]
        if self._is_laid_out:
            pieces, tiled = [self._lay_out(pieces)], False
            width = -(-width // side[0]) * side[0]
        size = width, self.size[1]
        return write_tiff(self.packing, pieces, size, side, wide=wide, count=count, tiled=tiled)

    def _pieces(self, places: list[tuple[int, int]]) -> list[bytes | memoryview]:
        """Return the bytes of some parts, as passed to libtiff."""
        data = memoryview(self.data)
        pieces: list[bytes | memoryview] = [data[start:end] for start, end in places]
        # JPEGs have their own bit order.
        if self.reverse_bits and self.packing.compression != JPEG:
            pieces = [bytes(piece).translate(_REVERSED) for piece in pieces]
        return pieces


def read_samples(
    directory: Directory,
    size: tuple[int, int],
    count: int,
    bits: int,
    *,
    is_ycbcr: bool,
    block: Block | None = None,
) -> Samples:
    """Read where and how the samples are stored. Raises `RequestError` if that is invalid.

    If a `block` of pixels shares samples, a row of blocks is read as a row of single samples.
    """
    planes = count if directory.number(tags.PLANAR, 1) == 2 else 1
    packing = read_packing(directory, count // planes, bits, is_ycbcr=is_ycbcr)
    layout = read_layout(directory, size, planes)
    check_number(layout, size, packing.compression)
    tiled_pixels = area(layout.part_size) * len(layout.rows) // planes if layout.tiled else 0
    predictor = read_predictor(directory, packing)
    if block is not None and block != WHOLE:
        if predictor != 1 or (len(layout.rows) > 1 and layout.part_size[1] % block[1]):
            raise unsupported(
                "TIFFs of subsampled YCbCr with a predictor, or with parts that split blocks,",
                "others are",
            )
        size, count = stored_size(size, block), 1
        rows = [-(-rows // block[1]) for rows in layout.rows]
        layout = Layout(layout.tiled, stored_size(layout.part_size, block), rows)
    row_bytes = (layout.part_size[0] * count // planes * bits + 7) // 8
    places = read_places(directory, layout, row_bytes if packing.compression == NONE else 0)
    if packing.compression in CCITT:
        most = tiff_fax.most_bytes(layout.part_size[0])
        places = [
            (start, min(end, start + most * rows))
            for (start, end), rows in zip(places, layout.rows, strict=True)
        ]
    if packing.compression == JPEG and planes > 1 and is_ycbcr:
        raise unsupported("TIFFs of JPEGs in separate YCbCr planes", ACCEPTED)
    return Samples(
        data=directory.data,
        size=size,
        count=count,
        planes=planes,
        packing=packing,
        predictor=predictor,
        layout=layout,
        tiled_pixels=tiled_pixels,
        places=places,
        reverse_bits=directory.number(tags.FILL_ORDER, 1) == 2,
    )
