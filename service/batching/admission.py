"""Refusal at the door: a full service says so now instead of growing a queue.

Both gates are used on the event loop alone, so they need no lock.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from service.errors import InflightBytesError, QueueFullError


class ImageGate:
    """Counts a model's images from before they are decoded until they are answered."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.admitted = 0

    @contextmanager
    def admit(self, images: int) -> Generator[None]:
        """Hold places for all images of a request, or raise `QueueFullError` and hold none."""
        if self.admitted + images > self.limit:
            raise QueueFullError(
                f"{self.admitted} images are waiting or being answered and {images} more would "
                f"exceed {self.limit} (max_queue); try again later"
            )
        self.admitted += images
        try:
            yield
        finally:
            self.admitted -= images


class ByteGate:
    """Counts the bytes of all request bodies in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def take(self, size: int) -> None:
        """Hold `size` bytes more, or raise `InflightBytesError` and hold none."""
        if self.held + size > self.limit:
            raise InflightBytesError(
                f"{self.held} bytes of request bodies are in flight and {size} more would exceed "
                f"{self.limit} (max_inflight_bytes); try again later"
            )
        self.held += size

    def give_back(self, size: int) -> None:
        """Let go of `size` bytes."""
        self.held -= size
