"""A limit on the memory that images being decoded take together."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager

from PIL import Image

from service.preprocess.limits import is_in_scans

# Peaks of Pillow's decoders with our own conversions, in bytes a pixel, measured over modes, turned
# by EXIF or transparent: JPEG 4 to 8, GIF 5, 16-bit grey 7, palette 9, RGBA 12, WebP 16 to 20.
_BYTES_PER_PIXEL = {"JPEG": 8, "MPO": 8, "WEBP": 20}
_OTHERS = 12
_IN_SCANS = 6
"""More for each pixel of a JPEG in several scans: all coefficients are kept until the last one, of
the full size also where the image is decoded at a reduced one."""


def decoding_bytes(image: Image.Image, data: bytes, full: tuple[int, int]) -> int:
    """Estimate the peak of memory that decoding an opened image takes.

    `image.size` is what it is decoded to, and `full` the size in its header.
    """
    size = math.prod(image.size) * _BYTES_PER_PIXEL.get(image.format or "", _OTHERS)
    return size + (_IN_SCANS * math.prod(full) if is_in_scans(image, data) else 0)


def plain_jpeg_bytes(width: int, height: int) -> int:
    """Estimate the same of a baseline JPEG that is decoded at its full size."""
    return width * height * _BYTES_PER_PIXEL["JPEG"]


class DecodingMemory:
    """Bytes that are being used for decoding, at most `limit` of them at a time.

    A small file may ask for a lot, so what counts is known from its header, before anything is
    decoded. Who comes first is served first. Thread-safe.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.held = 0
        self._changed = threading.Condition()
        self._line: deque[object] = deque()

    @contextmanager
    def hold(self, size: int) -> Generator[None]:
        """Hold so many bytes, once there is room for them; more than the limit only alone."""
        with self._changed:
            me = object()
            self._line.append(me)
            self._changed.wait_for(
                lambda: self._line[0] is me and (not self.held or self.held + size <= self.limit)
            )
            self._line.popleft()
            self.held += size
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.held -= size
                self._changed.notify_all()
