"""JPEGs with nothing special about them, passed to libjpeg-turbo directly.

Pillow uses the same library, but for a small image its Python code costs more than the pixels: for
64 x 64, some 150 us against 35 here, most of which are without the GIL, the bottleneck of a loaded
service. Any image that is not plain, or doesn't decode without a warning, is left to Pillow, so
this changes no pixel and no error.
"""

from __future__ import annotations

import re

import numpy as np
import simplejpeg
from numpy.typing import NDArray

# Special are frames that are not baseline, restarts (before each of which data may be missing), and
# segments that change the meaning of pixels: EXIF and XMP (rotation), Adobe's (colours). JFIF and
# ICC profiles are in most files and change nothing in Pillow either.
_START, _START_OF_SCAN = b"\xff\xd8", b"\xff\xda"
_COLORS = {"YCbCr": 3, "Gray": 1}
# What simplejpeg raises: a documented ValueError, and others for samplings that it has no name for.
UNDOCUMENTED = (ValueError, LookupError, TypeError, RuntimeError)
_SPECIAL = re.compile(rb"\xff[\xc1-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xdd\xe1\xe3-\xef]")

BEFORE_END = "extraneous bytes before marker 0xd9"
"""libjpeg's warning if all pixels of a single scan have been read."""


def plain_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a plain baseline JPEG, grey or YCbCr; None for anything else.

    It is also None if other bytes happen to look like a marker.
    """
    # With one occurrence, these two bytes are the start of the scan and not inside a segment.
    if not data.startswith(_START) or data.count(_START_OF_SCAN) != 1:
        return None
    scan = data.index(_START_OF_SCAN)
    if _SPECIAL.search(data, 0, scan):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except UNDOCUMENTED:
        return None
    # All channels must be in that scan: otherwise the decoder buffers it and waits for others.
    in_scan = data[scan + 4] if len(data) > scan + 4 else 0
    return (width, height) if _COLORS.get(colors) == in_scan else None


def decode_plain(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """Decode a JPEG of that `plain_size` to RGB [height, width, 3]; None if it may be damaged."""
    pixels = np.empty((size[1], size[0], 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(data, "RGB", buffer=pixels)
    except UNDOCUMENTED as error:
        return pixels if BEFORE_END in str(error) else None
    return pixels
