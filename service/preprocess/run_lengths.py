"""Run lengths of bitmaps (BI_RLE8 and BI_RLE4; Microsoft, "Bitmap Compression")."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.preprocess.encoded import corrupt, truncated

_END_OF_LINE, _END, _DELTA = 0, 1, 2  # what a run of no length is; more are that many pixels
_RUNS_AT_ONCE = 512
# Each step between runs is one of Python's; a picture of 1000 x 1000 of nothing but grain has as
# many as this.
_MAX_STEPS = 250_000


def unpack(data: bytes, size: tuple[int, int], *, four_bits: bool) -> NDArray[np.uint8]:
    """Unpack palette indices, uint8 [height, width], rows in the order in which they are stored.

    Pixels that are passed over have index 0, and what reaches beyond a row is dropped. Raises
    `TruncatedImageError` where the data end before the picture does, or `CorruptImageError` where
    they are far more than a picture of that size takes.
    """
    width, height = size
    pixels = np.zeros((height, width), np.uint8)
    flat = np.frombuffer(data, np.uint8)
    x = y = at = steps = unpacked = 0
    while y < height:
        at, run = _runs(flat, at, four_bits=four_bits)
        x += _put(pixels[y], x, run)
        steps, unpacked = steps + 1, unpacked + len(run)
        if steps > _MAX_STEPS or unpacked > 2 * pixels.size + 255 * _RUNS_AT_ONCE:
            raise corrupt("it is in far too many pieces")
        if at + 2 > len(data):
            raise truncated()
        if data[at]:  # more runs
            continue
        kind, at = data[at + 1], at + 2
        if kind == _END:
            break
        if kind == _END_OF_LINE:
            x, y = 0, y + 1
        elif kind == _DELTA:
            if at + 2 > len(data):
                raise truncated()
            x, y, at = x + data[at], y + data[at + 1], at + 2
        else:
            length = (kind + 1) // 2 if four_bits else kind
            if at + length > len(data):
                raise truncated()
            stored = flat[at : at + length]
            x += _put(pixels[y], x, _halves(stored)[:kind] if four_bits else stored)
            at += length + length % 2
    return pixels


def _runs(flat: NDArray[np.uint8], at: int, *, four_bits: bool) -> tuple[int, NDArray[np.uint8]]:
    """Unpack the runs that follow one another; give where they end, and their pixels."""
    window = flat[at : at + 2 * _RUNS_AT_ONCE]
    pairs = window[: len(window) // 2 * 2].reshape(-1, 2)
    ends = np.flatnonzero(pairs[:, 0] == 0)
    if len(ends):
        pairs = pairs[: ends[0]]
    lengths, values = pairs[:, 0].astype(np.intp), pairs[:, 1]
    pixels = np.repeat(values, lengths)
    if four_bits:  # the two halves take turns, beginning with the first in each run
        begins = np.repeat(np.cumsum(lengths) - lengths, lengths)
        is_second = (np.arange(len(pixels)) - begins) % 2 == 1
        pixels = np.where(is_second, pixels & 15, pixels >> 4)
    return at + 2 * len(pairs), pixels


def _put(row: NDArray[np.uint8], x: int, pixels: NDArray[np.uint8]) -> int:
    """Put pixels into a row; give how many there were."""
    part = pixels[: max(0, len(row) - x)]
    row[x : x + len(part)] = part
    return len(pixels)


def _halves(stored: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([stored >> 4, stored & 15], axis=-1).reshape(-1)
