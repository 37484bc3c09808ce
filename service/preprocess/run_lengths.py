"""Run lengths of bitmaps (BI_RLE8 and BI_RLE4; Microsoft, "Bitmap Compression").

The data are pairs of bytes. A command starts with a pair: a run of pixels, the end of a row or of
the bitmap, a step, or a number of literal pixels in the pairs that follow. Thousands of pairs are
interpreted at once, since a command takes a microsecond in Python and a photo has millions.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.preprocess.encoded import corrupt, truncated

_END_OF_ROW, _END, _STEP = 0, 1, 2  # second bytes of pairs that start with 0; more: literal pixels
_PAIRS_AT_ONCE = 32_768  # of up to 255 pixels each
_MOST_BYTES = 2 + 256  # of a command
# Encoders' commands, except the ends of rows, all have pixels; some encoders write steps over gaps.
_PIXELS_PER_STEP, _SPARE_COMMANDS = 256, 1000
# Pairs of a command that starts with 0, by its second byte: for 8 and for 4 bits per pixel.
_PAIRS = (
    np.array([1, 1, 2, *(1 + (count + 1) // 2 for count in range(3, 256))], np.intp),
    np.array([1, 1, 2, *(1 + (count + 3) // 4 for count in range(3, 256))], np.intp),
)
_DOUBLINGS = 7
_SPARE_PIXELS = 2**16  # allowed beyond the ends of rows, in addition to the picture's own number

_Numbers = NDArray[np.int32]
_Bytes = NDArray[np.uint8]


@dataclass
class _Picture:
    """Palette indices in stored row order, and the position of the next pixel."""

    width: int
    height: int
    indices: _Bytes = field(repr=False)
    x: int = 0
    y: int = 0


@dataclass(frozen=True)
class _Commands:
    """Some commands, and the bytes that contain them."""

    stream: _Bytes  # up to the last command's end
    starts: _Numbers
    first: _Bytes  # the first byte of each
    second: _Bytes
    stored: NDArray[np.intp]  # indices of those with literal pixels
    breaks: NDArray[np.intp]  # indices of those that move the position: ends of rows, steps


def unpack(data: bytes | memoryview, size: tuple[int, int], *, four_bits: bool) -> _Bytes:
    """Unpack palette indices, uint8 [height, width], with rows in stored order.

    Skipped pixels have index 0, and pixels beyond the end of a row are dropped. Raises
    `TruncatedImageError` if the data end before the picture, or `CorruptImageError` if they are far
    more than a picture of that size needs.
    """
    width, height = size
    picture = _Picture(width, height, np.zeros(width * height, np.uint8))
    end, at = len(data) + len(data) % 2, 0
    left = width * height + 2 * height + _SPARE_COMMANDS
    steps_left = width * height // _PIXELS_PER_STEP + 2 * height + _SPARE_COMMANDS
    pixels_left = 2 * width * height + _SPARE_PIXELS
    while picture.y < height:
        if at >= end and (picture.y, picture.x) >= (height - 1, width):
            break  # without an end marker
        if at >= end:
            raise truncated()
        pairs = min(_PAIRS_AT_ONCE, (end - at) // 2)
        # The last command may extend beyond these pairs, and beyond the file.
        length = 2 * pairs + _MOST_BYTES
        stream = np.frombuffer(bytes(data[at : at + length]).ljust(length, b"\0"), np.uint8)
        commands, after, ends = _read(stream, pairs, four_bits)
        counts = commands.first.astype(np.intp)  # of pixels
        counts[commands.stored] = commands.second[commands.stored]
        left -= len(counts)
        steps_left -= int((commands.second[commands.breaks] == _STEP).sum())
        pixels_left -= int(counts.sum())
        if left < 0 or steps_left < 0:
            raise corrupt("it has far too many pieces")
        if pixels_left < 0:
            raise corrupt("its runs are far longer than its rows")
        _write(commands, counts, picture, four_bits)
        if ends:
            break
        at += after
        if at > end and picture.y < height:
            raise truncated()
    return picture.indices.reshape(height, width)


def _read(stream: _Bytes, pairs: int, four_bits: bool) -> tuple[_Commands, int, bool]:
    """Return the commands up to the end, the offset of the next one, and whether it is the end."""
    starts, after = _commands(stream[: 2 * pairs], four_bits)
    first, second = stream[: 2 * pairs : 2], stream[1 : 2 * pairs : 2]
    if len(starts) < pairs:
        first, second = stream[starts], stream[starts + 1]
    escapes = np.flatnonzero(first == 0)
    kinds = second[escapes]
    ends, end = np.flatnonzero(kinds == _END), after
    if len(ends):
        kept = int(escapes[ends[0]])
        end = int(starts[kept])
        starts, first, second = starts[:kept], first[:kept], second[:kept]
        escapes, kinds = escapes[: ends[0]], kinds[: ends[0]]
    stored, breaks = escapes[kinds > _STEP], escapes[kinds <= _STEP]
    return _Commands(stream[:end], starts, first, second, stored, breaks), after, len(ends) > 0


def _commands(stream: _Bytes, four_bits: bool) -> tuple[_Numbers, int]:
    """Return the offsets where commands begin, the first at 0, and that of the next one."""
    first, second = stream[::2], stream[1::2]
    longs = np.flatnonzero((first == 0) & (second >= _STEP))  # candidates: some may be pixels
    starts = np.arange(0, len(stream), 2, dtype=np.int32)
    if not len(longs):
        return starts, len(stream)
    ends = longs + _PAIRS[four_bits][second[longs]]
    if (ends[:-1] > longs[1:]).any():
        are_commands = _reached(longs, ends, len(first))
        longs, ends = longs[are_commands], ends[are_commands]
    begun = np.zeros(max(len(starts), int(ends[-1])) + 1, np.int8)
    begun[longs + 1] = 1
    begun[ends] -= 1
    return starts[np.cumsum(begun[: len(starts)], dtype=np.int8) == 0], 2 * max(
        len(starts), int(ends[-1])
    )


def _reached(begins: NDArray[np.intp], ends: NDArray[np.intp], length: int) -> NDArray[np.intp]:
    """Return which stretches are reached by going from the first one to the next after each end."""
    begun = np.zeros(max(length, int(ends.max())) + 1, np.intp)
    begun[begins + 1] = 1
    # The one after each, the second, the fourth and so on; the last has none.
    following = [np.append(np.cumsum(begun)[ends], len(begins))]
    for _ in range(_DOUBLINGS):
        following.append(following[-1][following[-1]])
    farthest = following.pop()
    some, at = list[int](), 0
    while at < len(begins):
        some.append(at)
        at = int(farthest[at])
    are_reached = np.zeros(len(begins) + 1, np.bool_)
    reached = np.array(some)
    for nearer in reversed(following):
        reached = np.concatenate([reached, nearer[reached]])
    are_reached[reached] = True
    return np.flatnonzero(are_reached[:-1])


def _write(
    commands: _Commands, counts: NDArray[np.intp], picture: _Picture, four_bits: bool
) -> None:
    """Write each command's pixels, `counts` of them, and move to where the last one leads."""
    values = _values(commands, counts, four_bits)
    # Between two breaks, pixels are contiguous, both among the values and in a row.
    breaks = commands.breaks
    behind = np.append(np.cumsum(counts)[breaks], len(values))
    sources = np.append(0, behind[:-1])
    is_step = commands.second[breaks] == _STEP
    places = commands.starts[breaks[is_step]]
    across, down = np.zeros(len(breaks), np.intp), np.ones(len(breaks), np.intp)
    across[is_step], down[is_step] = commands.stream[places + 2], commands.stream[places + 3]
    ys = picture.y + np.append(0, np.cumsum(down))
    # Where each row began, on a line of all pixels and steps.
    moved = sources + np.append(0, np.cumsum(across))
    began = np.append(-picture.x, np.where(is_step, -picture.x, moved[1:]))
    xs = moved - np.maximum.accumulate(began)
    lengths = np.clip(picture.width - xs, 0, behind - sources)
    lengths[ys >= picture.height] = 0
    targets = ys * picture.width + xs
    picture.y = min(int(ys[-1]), picture.height)
    picture.x = min(int(xs[-1] + len(values) - sources[-1]), picture.width)
    _copy(values, picture.indices, sources, targets, lengths)


def _copy(
    values: _Bytes,
    indices: _Bytes,
    sources: NDArray[np.intp],
    targets: NDArray[np.intp],
    lengths: NDArray[np.intp],
) -> None:
    """Copy stretches of values, joining those that are contiguous in source and target."""
    some = np.flatnonzero(lengths)
    sources, targets, ends = sources[some], targets[some], (sources + lengths)[some]
    begins = np.ones(len(some), np.bool_)
    begins[1:] = (sources[1:] != ends[:-1]) | (targets[1:] - targets[:-1] != np.diff(sources))
    at = np.flatnonzero(begins)
    last = np.append(at[1:], len(some)) - 1 if len(at) else at
    stretches = zip(sources[at].tolist(), ends[last].tolist(), targets[at].tolist(), strict=True)
    for source, end, target in stretches:
        indices[target : target + end - source] = values[source:end]


def _values(commands: _Commands, counts: NDArray[np.intp], four_bits: bool) -> _Bytes:
    """Return the palette indices of all pixels of some commands, in order."""
    if not four_bits:
        return _repeated(commands, counts)
    halves = (counts + 1) >> 1
    both = _repeated(commands, halves)
    values = np.empty(2 * len(both), np.uint8)
    values[::2], values[1::2] = both >> 4, both & 15
    is_pixel = np.ones(len(values), np.bool_)
    is_pixel[(2 * np.cumsum(halves) - 1)[counts & 1 == 1]] = False
    return values[is_pixel]


def _repeated(commands: _Commands, counts: NDArray[np.intp]) -> _Bytes:
    """Return the pixel bytes of commands, `counts` for each, repeating those of runs."""
    stored = commands.stored
    if not len(stored):
        return np.repeat(commands.second, counts)
    # Bytes that are literal pixels: all but commands, steps, and the padding of odd lengths.
    is_pixel = np.ones(len(commands.stream) // 2, np.bool_)
    is_pixel[commands.starts >> 1] = False
    steps = commands.breaks[commands.second[commands.breaks] == _STEP]
    is_pixel[(commands.starts[steps] >> 1) + 1] = False
    is_pixel = np.repeat(is_pixel, 2)
    odd = stored[counts[stored] & 1 == 1]
    is_pixel[commands.starts[odd] + 2 + counts[odd]] = False
    as_they_are = commands.stream[is_pixel]
    if len(stored) + len(commands.breaks) == len(counts):
        return as_they_are
    is_run = commands.first > 0
    in_run = np.repeat(is_run, counts)
    values = np.empty(len(in_run), np.uint8)
    values[in_run] = np.repeat(commands.second[is_run], counts[is_run])
    values[~in_run] = as_they_are
    return values
