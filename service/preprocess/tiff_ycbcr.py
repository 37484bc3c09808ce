"""YCbCr in a TIFF (TIFF 6.0, section 21): brightness per pixel, colours per block of pixels.

JPEG parts have their own conversion; everything else is converted to RGB here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.preprocess import tiff_tags as tags
from service.preprocess.encoded import corrupt, unsupported
from service.preprocess.tiff_tags import Directory

# JPEG's values; others are refused.
_COEFFICIENTS, _REFERENCE = (0.299, 0.587, 0.114), (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)
_SIDES = {1, 2, 4}
_ACCEPTED = "8 bits in JPEG's range, with blocks of 1, 2 or 4 pixels per side, are"

Block = tuple[int, int]
"""Pixels across and down that share their colours."""

WHOLE: Block = (1, 1)
"""Each pixel has its own colours, and there may be further samples."""


def read_block(directory: Directory, count: int, bits: int) -> Block:
    """Return the size of a block. Raises `RequestError` if the colours would come out wrong."""
    coefficients = directory.fractions(tags.YCBCR_COEFFICIENTS, _COEFFICIENTS)
    reference = directory.fractions(tags.REFERENCE, _REFERENCE)
    if not _close(coefficients, _COEFFICIENTS, 0.001) or not _close(reference, _REFERENCE, 0.5):
        raise unsupported("TIFFs of YCbCr in a range other than JPEG's", _ACCEPTED)
    block = directory.numbers(tags.YCBCR_SUBSAMPLING, (2, 2))
    if len(block) != 2:
        raise corrupt("it does not say how its colours are subsampled")
    across, down = block
    if bits != 8 or not {across, down} <= _SIDES:
        raise unsupported(f"TIFFs of {bits}-bit YCbCr in blocks of {across} x {down}", _ACCEPTED)
    if (across, down) == WHOLE:
        return WHOLE
    if count > 3 or directory.number(tags.PLANAR, 1) == 2:
        raise unsupported("TIFFs of subsampled YCbCr in planes or with alpha", _ACCEPTED)
    return across, down


def _close(values: list[float], others: tuple[float, ...], allowed: float) -> bool:
    return len(values) == len(others) and all(
        math.isclose(a, b, abs_tol=allowed) for a, b in zip(values, others, strict=True)
    )


def stored_size(size: tuple[int, int], block: Block) -> tuple[int, int]:
    """Return the bytes per row of blocks, and the rows of blocks, of an image or a part."""
    across, down = block
    return -(-size[0] // across) * (across * down + 2), -(-size[1] // down)


def to_rgb(values: NDArray[np.uint8], size: tuple[int, int], block: Block) -> NDArray[np.uint8]:
    """Convert rows of blocks, each all its brightnesses then Cb, Cr, to RGB [height, width, 3]."""
    (width, height), (across, down) = size, block
    blocks = values.reshape(len(values), -1, across * down + 2)
    rows = blocks[..., :-2].reshape(len(values), -1, down, across).swapaxes(1, 2)
    ycbcr = np.empty((height, width, 3), np.uint8)
    ycbcr[..., 0] = rows.reshape(len(values) * down, -1)[:height, :width]
    for channel in (1, 2):
        shared = blocks[..., channel - 3].repeat(across, axis=1)[:, :width]
        ycbcr[..., channel] = shared.repeat(down, axis=0)[:height]
    return np.asarray(Image.fromarray(ycbcr, "YCbCr").convert("RGB"))
