"""CCITT Group 3 and 4 in TIFFs (ITU-T T.4 and T.6): whether a strip or tile has all its rows.

libtiff does not report codes that end early: it leaves the previous contents of its memory or, for
Group 3, starts again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.preprocess import tiff_tags as tags
from service.preprocess.encoded import open_as, truncated
from service.preprocess.tiff_packing import GROUP3, GROUP4, Packing
from service.preprocess.tiff_write import write_tiff

_EOL_ZEROS = 11  # zero bits before the 1 of an end of line, more than any pixel code has
_LEADING = bytes(8 - byte.bit_length() for byte in range(256))  # zero bits of a byte
_TRAILING = bytes((byte & -byte).bit_length() - 1 if byte else 8 for byte in range(256))
_BEFORE, _BEHIND = 2, 3  # bytes on either side that may belong to an end of line
_BYTES_AT_ONCE = 65_536
_FILL_BYTES = 128  # between two lines, and at the end
_END_OF_BLOCK = b"\0\x10\x01"  # of Group 4
# Columns of a part that show whether its rows exist; pixels that are unpacked at a time for this.
_SHOWN, _PIXELS_AT_ONCE = 8, 2**20
# Codes of Group 4: two run lengths, here 0 in white and 1 in black; the same as in the row above.
_HORIZONTAL, _AS_ABOVE = "00100110101010", "1"


def most_bytes(width: int) -> int:
    """Return how many bytes of a row are examined: more than its codes and fill bits can take.

    In the worst case they take 6 bits per pixel.
    """
    return width + _FILL_BYTES


def check_rows(
    packing: Packing,
    pieces: Sequence[bytes | memoryview],
    rows: Sequence[int],
    part_size: tuple[int, int],
) -> None:
    """Raise `TruncatedImageError` if a piece has fewer rows than its number in `rows`.

    An incomplete last row counts. For the other fax compressions, whose lines have no end marker,
    libtiff reports missing rows itself.
    """
    if packing.compression == GROUP3:
        tagged = bool(packing.options.get(tags.T4_OPTIONS, 0) & 1)
        if (lines(pieces, rows, tagged=tagged) < rows).any():
            raise truncated()
    elif packing.compression == GROUP4:
        # Some at a time, since they unpack to twice as much, and for low strips to more.
        each = max(1, _PIXELS_AT_ONCE // ((part_size[0] + _SHOWN) * part_size[1] * 2))
        for at in range(0, len(pieces), each):
            some = packing, pieces[at : at + each], rows[at : at + each], part_size
            shown = _shown(*some, black_begin=True)
            # The pixels might be the part's own; if so, they differ after other previous rows.
            if shown.any() and (shown & _shown(*some, black_begin=False)).any():
                raise truncated()


def _shown(
    packing: Packing,
    pieces: Sequence[bytes | memoryview],
    rows: Sequence[int],
    part_size: tuple[int, int],
    *,
    black_begin: bool,
) -> NDArray[np.bool_]:
    """Return whether the row after each piece's last equals one that was unpacked before it.

    libtiff makes one row of a piece's end and leaves its memory unchanged for the others. So each
    piece is preceded by a tile of known rows on its left, which then shows through on the right.
    """
    width, high = part_size[0], part_size[1] + 1
    before = _group4_rows(high, width, black_begin=black_begin)
    tiles = [part for piece in pieces for part in (before, bytes(piece) + _END_OF_BLOCK)]
    size = width + min(width, _SHOWN), high * len(pieces)
    file = write_tiff(packing, tiles, size, (width, high), tiled=True)
    with open_as("TIFF", file, size) as image:
        image.load()
        # As bytes: numpy may consider two of Pillow's true values different.
        old = np.asarray(image.crop((0, 0, min(width, _SHOWN), 1)).convert("L"))
        found = np.asarray(image.crop((width, 0, *size)).convert("L"))
    shown: NDArray[np.bool_] = (found[np.arange(len(pieces)) * high + rows] == old).all(axis=-1)
    return shown


def lines(
    pieces: Sequence[bytes | memoryview], wanted: Sequence[int], *, tagged: bool
) -> NDArray[np.intp]:
    """Count the lines of each Group 3 piece, each of which follows an end of line.

    Once a piece has the `wanted` number, the rest may be left uncounted. `tagged` means that a bit
    after each end of line says how the line is coded. Incomplete lines count too.
    """
    parts = (part for piece in pieces for part in (b"\xff" * _BEFORE, piece, bytes(_BEHIND)))
    stream = b"".join(parts)
    lengths = np.array([len(piece) for piece in pieces], np.intp)
    ends = np.cumsum(lengths + _BEFORE + _BEHIND) - _BEHIND
    starts = ends - lengths
    values = np.frombuffer(stream, np.uint8)
    # The first one may have no end of line before it.
    has_first = (lengths > 0) & ((values[starts] > 0) | (values[starts + 1] >> 5 > 0))
    counts: NDArray[np.intp] = has_first.astype(np.intp)
    for at in range(_BEFORE, len(stream) - _BEHIND, _BYTES_AT_ONCE):
        piece = int(np.searchsorted(starts, at, "right")) - 1
        behind = at + _BYTES_AT_ONCE
        if behind <= ends[piece] and counts[piece] >= wanted[piece]:
            continue
        found = at + _line_ends(stream[at - _BEFORE : behind + _BEHIND], tagged)
        owners = np.searchsorted(starts, found, "right") - 1
        owners = owners[found < ends[owners]]
        counts += np.bincount(owners, minlength=len(counts))
    return counts


def _line_ends(window: bytes, tagged: bool) -> NDArray[np.intp]:
    """Return the offsets, after the margin, of bytes with ends of lines that codes follow."""
    values = np.frombuffer(window, np.uint8)
    leading = np.frombuffer(window.translate(_LEADING), np.uint8)
    trailing = np.frombuffer(window.translate(_TRAILING), np.uint8)
    last = len(values) - _BEHIND
    before = trailing[1 : last - 1] + (trailing[1 : last - 1] == 8) * trailing[: last - 2]
    zeros = before + leading[_BEFORE:last]
    ends = np.flatnonzero((zeros >= _EOL_ZEROS) & (values[_BEFORE:last] > 0))
    codes = np.zeros(len(ends), np.int64)
    for i in range(_BEFORE, _BEFORE + 4):
        codes = codes << 8 | values[ends + i]
    codes = codes << (leading[ends + _BEFORE].astype(np.int64) + 1 + tagged) & 0xFFFFFFFF
    found: NDArray[np.intp] = ends[codes >> 32 - _EOL_ZEROS > 0]
    return found


def _group4_rows(rows: int, width: int, *, black_begin: bool) -> bytes:
    """Encode rows that are white, or white except for their first pixel."""
    bits = _AS_ABOVE * rows
    if black_begin:
        rest = _AS_ABOVE * (width > 1)
        bits = _HORIZONTAL + rest + (2 * _AS_ABOVE + rest) * (rows - 1)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8) + _END_OF_BLOCK
