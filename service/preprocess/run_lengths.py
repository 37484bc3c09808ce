"""Run lengths of bitmaps (BI_RLE8 and BI_RLE4; Microsoft, "Bitmap Compression").

The data are pairs of bytes. A pair begins a command: a run of pixels, the end of a row or of all, a
step, or so many pixels as they are, in the pairs that follow. What some thousands of pairs are is
found at once, since each command would take a microsecond in Python, and a photo has millions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.preprocess.encoded import corrupt, truncated

_END_OF_ROW, _END, _STEP = 0, 1, 2  # what a pair that begins with 0 is; more are pixels as stored
_PAIRS_AT_ONCE = 16_384  # of up to 255 pixels each
_MOST_BYTES = 2 + 256  # of a command

_Numbers = NDArray[np.int32]
_Bytes = NDArray[np.uint8]


@dataclass
class _Picture:
    """Indices in rows as stored, and where the next pixel goes."""

    width: int
    height: int
    indices: _Bytes = field(repr=False)
    x: int = 0
    y: int = 0


def unpack(data: bytes | memoryview, size: tuple[int, int], *, four_bits: bool) -> _Bytes:
    """Unpack palette indices, uint8 [height, width], rows in the order in which they are stored.

    Pixels that are passed over have index 0, and what reaches beyond a row is dropped. Raises
    `TruncatedImageError` where the data end before the picture does, or `CorruptImageError` where
    they are far more than a picture of that size takes.
    """
    width, height = size
    picture = _Picture(width, height, np.zeros(width * height, np.uint8))
    end, at = len(data) + len(data) % 2, 0
    left = 2 * width * height + 4 * height + 1000
    while picture.y < height:
        if at >= end and (picture.y, picture.x) >= (height - 1, width):
            break  # without a mark of its end
        if at >= end:
            raise truncated()
        pairs = min(_PAIRS_AT_ONCE, (end - at) // 2)
        # The last command may reach beyond them, and beyond the file.
        length = 2 * pairs + _MOST_BYTES
        stream = np.frombuffer(bytes(data[at : at + length]).ljust(length, b"\0"), np.uint8)
        starts, after = _commands(stream[: 2 * pairs], four_bits)
        is_end = (stream[starts] == 0) & (stream[starts + 1] == _END)
        ends = bool(is_end.any())
        if ends:
            starts = starts[: is_end.argmax()]
        left -= len(starts)
        if left < 0:
            raise corrupt("it is in far too many pieces")
        _write(stream, starts, picture, four_bits)
        if ends:
            break
        at += after
        if at > end and picture.y < height:
            raise truncated()
    return picture.indices.reshape(height, width)


def _commands(stream: _Bytes, four_bits: bool) -> tuple[_Numbers, int]:
    """Find where commands begin, the first of them at 0, and where the one behind them does."""
    first, second = stream[::2], stream[1::2]
    longs = np.flatnonzero((first == 0) & (second >= _STEP))  # if they are commands at all
    starts = np.arange(0, len(stream), 2, dtype=np.int32)
    if not len(longs):
        return starts, len(stream)
    counts = second[longs].astype(np.intp)
    ends = longs + 1 + np.where(counts == _STEP, 1, _stored(counts, four_bits) // 2)
    # From one to the next that isn't within it; then two of these at once, then four.
    following = np.append(np.searchsorted(longs, ends), len(longs))
    is_command = np.zeros(len(following), np.bool_)
    is_command[0] = True
    for _ in range(len(longs).bit_length()):
        is_command[following[is_command]] = True
        following = following[following]
    is_command[-1] = False
    longs, ends = longs[is_command[:-1]], ends[is_command[:-1]]
    begun = np.zeros(max(len(starts), int(ends[-1])) + 1, np.int8)
    begun[longs + 1] = 1
    begun[ends] -= 1
    return starts[np.cumsum(begun[: len(starts)], dtype=np.int8) == 0], 2 * max(
        len(starts), int(ends[-1])
    )


def _stored(counts: NDArray[np.intp], four_bits: bool) -> NDArray[np.intp]:
    """Return the bytes of pixels as they are, an even number."""
    return (counts + 3) // 4 * 2 if four_bits else (counts + 1) // 2 * 2


def _write(stream: _Bytes, starts: _Numbers, picture: _Picture, four_bits: bool) -> None:
    """Write the pixels of some commands, and go to where the last one leads."""
    first, second = stream[starts].astype(np.int32), stream[starts + 1].astype(np.int32)
    is_step = (first == 0) & (second == _STEP)
    is_row = (first == 0) & (second == _END_OF_ROW)
    is_stored = (first == 0) & (second > _STEP)
    pixels = np.where(is_stored, second, first)
    across = pixels + np.where(is_step, stream[starts + 2], 0)
    down = np.where(is_step, stream[starts + 3], is_row).astype(np.int32)
    ys = picture.y + np.cumsum(down, dtype=np.int32)
    behind = np.cumsum(across, dtype=np.int32)
    row_began = np.maximum.accumulate(np.where(is_row, behind, -picture.x))
    xs = behind - row_began - across
    if len(starts):
        picture.y = min(int(ys[-1]), picture.height)
        picture.x = min(int(behind[-1] - row_began[-1]), picture.width)
    # A step's own pixels are none, so that it does not matter that its x and y are those behind it.
    is_within = ys < picture.height
    shown = np.where(is_within, np.clip(picture.width - xs, 0, pixels), 0)
    place = np.arange(int(shown.sum()), dtype=np.int32)
    place -= np.repeat(np.cumsum(shown, dtype=np.int32) - shown, shown)  # within its command
    source = place >> 1 if four_bits else place.copy()
    source *= np.repeat(is_stored, shown)
    source += np.repeat(starts + 1 + is_stored, shown)
    values = stream[source]
    if four_bits:
        values = np.where(place & 1, values & 15, values >> 4)
    place += np.repeat(ys * picture.width + xs, shown)
    picture.indices[place] = values
