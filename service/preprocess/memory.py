"""A limit on the memory that images being decoded take together."""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from contextlib import contextmanager

BYTES_PER_PIXEL = 4
"""What Pillow takes for a pixel of RGB."""


class PixelMemory:
    """Bytes of pixels that are being decoded, at most `limit` of them at a time.

    A small file may ask for a lot, so what counts is the size in its header, before anything is
    decoded. Thread-safe.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Generator[None]:
        """Hold the memory of so many pixels, once there is room for them.

        An image that is larger than the limit is decoded alone.
        """
        size = pixels * BYTES_PER_PIXEL
        with self._changed:
            self._changed.wait_for(lambda: not self.held or self.held + size <= self.limit)
            self.held += size
        try:
            yield
        finally:
            with self._changed:
                self.held -= size
                self._changed.notify_all()
