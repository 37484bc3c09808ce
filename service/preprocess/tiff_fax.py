"""CCITT Group 3 and 4 in TIFFs (ITU-T T.4 and T.6): whether a strip or tile has all its rows.

libtiff does not tell where the codes end early: it leaves what was in its memory before, or of
Group 3 begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.preprocess import tiff_tags as tags
from service.preprocess.encoded import open_as, truncated
from service.preprocess.tiff_packing import GROUP3, GROUP4, Packing
from service.preprocess.tiff_write import write_tiff

_EOL_ZEROS = 11  # bits that are 0 before the 1 of an end of line, and never in codes of pixels
_LEADING = bytes(8 - byte.bit_length() for byte in range(256))  # zeros of a byte
_TRAILING = bytes((byte & -byte).bit_length() - 1 if byte else 8 for byte in range(256))
_BEFORE, _BEHIND = 2, 3  # bytes on either side, in which what belongs to an end of line lies
_BYTES_AT_ONCE = 65_536
_FILL_BYTES = 128  # between two lines, and at the end
_END_OF_BLOCK = b"\0\x10\x01"  # of Group 4
# Columns of a part that tell if its rows are there; pixels that are unpacked at a time to see that.
_SHOWN, _PIXELS_AT_ONCE = 8, 2**20
# Codes of Group 4: two changes by their lengths, here of none in white and one in black; as above.
_HORIZONTAL, _AS_ABOVE = "00100110101010", "1"


def most_bytes(width: int) -> int:
    """Return how many bytes of a row are looked at: more than codes and their fill bits take.

    In the worst case they are 6 bits a pixel.
    """
    return width + _FILL_BYTES


def check_rows(
    packing: Packing,
    pieces: Sequence[bytes | memoryview],
    rows: Sequence[int],
    part_size: tuple[int, int],
) -> None:
    """Refuse pieces that have fewer than their `rows`. Raises `TruncatedImageError`.

    A last row that breaks off counts. Where lines have no end and no mark of it, as of the other
    compressions of faxes, libtiff tells by itself.
    """
    if packing.compression == GROUP3:
        tagged = bool(packing.options.get(tags.T4_OPTIONS, 0) & 1)
        if (lines(pieces, rows, tagged=tagged) < rows).any():
            raise truncated()
    elif packing.compression == GROUP4:
        # Some at a time, since what they unpack to is twice as much, or of low strips more.
        each = max(1, _PIXELS_AT_ONCE // ((part_size[0] + _SHOWN) * part_size[1] * 2))
        for at in range(0, len(pieces), each):
            some = packing, pieces[at : at + each], rows[at : at + each], part_size
            shown = _shown(*some, black_begin=True)
            # They might be a part's own; then they are not if others are before it.
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
    """Return whether the row behind each piece's last is as one that was unpacked before.

    libtiff makes one row of a piece's end, and leaves what was in its memory of the others. So that
    stands in a tile on the left, and the beginning of the piece's rows is on the right.
    """
    width, high = part_size[0], part_size[1] + 1
    before = _group4_rows(high, width, black_begin=black_begin)
    tiles = [part for piece in pieces for part in (before, bytes(piece) + _END_OF_BLOCK)]
    size = width + min(width, _SHOWN), high * len(pieces)
    file = write_tiff(packing, tiles, size, (width, high), tiled=True)
    with open_as("TIFF", file, size) as image:
        image.load()
        # In bytes: numpy may take two of Pillow's truths for different.
        old = np.asarray(image.crop((0, 0, min(width, _SHOWN), 1)).convert("L"))
        found = np.asarray(image.crop((width, 0, *size)).convert("L"))
    shown: NDArray[np.bool_] = (found[np.arange(len(pieces)) * high + rows] == old).all(axis=-1)
    return shown


def lines(
    pieces: Sequence[bytes | memoryview], wanted: Sequence[int], *, tagged: bool
) -> NDArray[np.intp]:
    """Count the lines of each piece of Group 3, each of which follows an end of line.

    Of a piece it may be less than there are, but not where that is less than `wanted` of it.
    `tagged` tells that a bit between them says how the line is coded. A line whose codes break off
    counts as well.
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
    """Return in which bytes lines end that have codes behind them, counted from the margin on."""
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
    """Code rows that are white, or white but for their first pixel."""
    bits = _AS_ABOVE * rows
    if black_begin:
        rest = _AS_ABOVE * (width > 1)
        bits = _HORIZONTAL + rest + (2 * _AS_ABOVE + rest) * (rows - 1)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8) + _END_OF_BLOCK
