"""CCITT Group 3 and 4 in TIFFs (ITU-T T.4 and T.6): whether a strip or tile has all its rows.

libtiff does not tell where the codes end early: it leaves what was in its memory before, or of
Group 3 begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_EOL_ZEROS = 11  # bits that are 0 before the 1 of an end of line, and never in codes of pixels
_BYTES_AT_ONCE = 65_536
_MARGIN = 4  # bytes on either side, in which what belongs to an end of line lies
_END_OF_BLOCK = b"\0\x10\x01"  # of Group 4


def lines(data: bytes | memoryview, *, tagged: bool) -> int:
    """Count the lines of Group 3, each of which follows an end of line.

    `tagged` tells that a bit between them says how the line is coded. A line whose codes break off
    counts as well.
    """
    bits = np.unpackbits(np.frombuffer(data[:_MARGIN], np.uint8))
    count = int(bits[:_EOL_ZEROS].any())  # the first one may have no end of line before it
    for at in range(0, len(data), _BYTES_AT_ONCE):
        window = bytes(data[max(0, at - _MARGIN) : at + _BYTES_AT_ONCE + _MARGIN])
        before = b"\xff" * (_MARGIN - min(at, _MARGIN))
        length = min(_BYTES_AT_ONCE, len(data) - at) + 2 * _MARGIN
        count += _lines(np.frombuffer((before + window).ljust(length, b"\0"), np.uint8), tagged)
    return count


def _lines(window: NDArray[np.uint8], tagged: bool) -> int:
    """Count the ends of lines that end within a window's margins and have codes behind them."""
    ones = np.unpackbits(window)
    sums = np.concatenate([[0], np.cumsum(ones, dtype=np.int32)])  # of the bits before each
    ends = np.arange(8 * _MARGIN, len(ones) - 8 * _MARGIN)
    ends = ends[ones[ends] == 1]
    ends = ends[sums[ends] == sums[ends - _EOL_ZEROS]]
    codes = ends + 1 + tagged
    return int((sums[codes + _EOL_ZEROS] > sums[codes]).sum())


def group4_rows(rows: int, *, black_end: bool) -> bytes:
    """Code rows that are white, or white but for their last pixel."""
    # The first row's change is one before the end of the white row above; others are as above.
    bits = "010" + "1" + "11" * (rows - 1) if black_end else "1" * rows
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8) + _END_OF_BLOCK


def interleaved(pieces: Sequence[bytes | memoryview], before: bytes) -> list[bytes | memoryview]:
    """Put the same rows before each piece of Group 4, and an end behind it, if it lacks its own."""
    return [part for piece in pieces for part in (before, bytes(piece) + _END_OF_BLOCK)]
