"""Run lengths of bitmaps (BI_RLE8 and BI_RLE4; Microsoft, "Bitmap Compression")."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.preprocess.encoded import corrupt, truncated

_END_OF_LINE, _END, _DELTA = 0, 1, 2  # what a run of no length is; more are that many pixels
# Each is one of Python's, some microsecond; a dithered photo of 12 megapixels has three million.
_MAX_STEPS = 5_000_000
_SHORT = 32  # bytes of runs that are unpacked one by one: numpy takes longer to begin
_RUNS_AT_ONCE = 4096


def unpack(data: bytes, size: tuple[int, int], *, four_bits: bool) -> NDArray[np.uint8]:
    """Unpack palette indices, uint8 [height, width], rows in the order in which they are stored.

    Pixels that are passed over have index 0, and what reaches beyond a row is dropped. Raises
    `TruncatedImageError` where the data end before the picture does, or `CorruptImageError` where
    they are far more than a picture of that size takes.
    """
    width, height = size
    pixels = bytearray(width * height)
    x = y = at = 0
    steps_left = min(_MAX_STEPS, 2 * width * height + 4 * height + 1000)
    pixels_left = 2 * width * height + 255 * _RUNS_AT_ONCE
    while y < height:
        steps_left -= 1
        if steps_left < 0 or pixels_left < 0:
            raise corrupt("it is in far too many pieces")
        if at + 2 > len(data):
            raise truncated()
        length, value = data[at], data[at + 1]
        at += 2
        if length:
            run, at = _run(data, at - 2, four_bits=four_bits)
        elif value == _END:
            break
        elif value == _END_OF_LINE:
            x, y = 0, y + 1
            continue
        elif value == _DELTA:
            if at + 2 > len(data):
                raise truncated()
            x, y, at = x + data[at], y + data[at + 1], at + 2
            continue
        else:
            stored = (value + 1) // 2 if four_bits else value
            if at + stored > len(data):
                raise truncated()
            run = data[at : at + stored]
            run = _halves(run)[:value] if four_bits else run
            at += stored + stored % 2
        room = max(0, width - x)
        start = y * width + min(x, width)
        pixels[start : start + min(len(run), room)] = run[:room]
        x += len(run)
        pixels_left -= len(run)
    return np.frombuffer(pixels, np.uint8).reshape(height, width)


def _run(data: bytes, at: int, *, four_bits: bool) -> tuple[bytes, int]:
    """Unpack a run, or very many of them at once; give where they end too."""
    if data.find(0, at, at + _SHORT) >= 0 or len(data) < at + _SHORT:
        length, value = data[at], data[at + 1]
        if four_bits:
            return (bytes([value >> 4, value & 15]) * ((length + 1) // 2))[:length], at + 2
        return bytes([value]) * length, at + 2
    pairs = np.frombuffer(data, np.uint8, min(len(data) - at, 2 * _RUNS_AT_ONCE) // 2 * 2, at)
    pairs = pairs.reshape(-1, 2)
    ends = np.flatnonzero(pairs[:, 0] == 0)
    if len(ends):
        pairs = pairs[: ends[0]]
    lengths, values = pairs[:, 0].astype(np.intp), pairs[:, 1]
    pixels = np.repeat(values, lengths)
    if four_bits:  # the two halves take turns, beginning with the first in each run
        begins = np.repeat(np.cumsum(lengths) - lengths, lengths)
        is_second = (np.arange(len(pixels)) - begins) % 2 == 1
        pixels = np.where(is_second, pixels & 15, pixels >> 4)
    return pixels.tobytes(), at + 2 * len(pairs)


def _halves(stored: bytes) -> bytes:
    return bytes(half for byte in stored for half in (byte >> 4, byte & 15))
