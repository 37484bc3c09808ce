"""A limit on the total memory of images that are being decoded."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager

from service.errors import ImageTooLargeError


class DecodingMemory:
    """Bytes in use for decoding, at most `limit` at a time.

    A small file may need a lot, so the amount is estimated from its header before anything is
    decoded. First come, first served. Thread-safe.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.held = 0
        self._changed = threading.Condition()
        self._line: deque[object] = deque()
        self._of_thread = threading.local()

    def waited_s(self) -> float:
        """Return the total seconds that the calling thread has waited for memory."""
        waited: float = getattr(self._of_thread, "waited_s", 0.0)
        return waited

    @contextmanager
    def hold(self, size: int, spare: int = 0) -> Generator[None]:
        """Hold `size` bytes, plus up to `spare` as the limit allows, waiting until they are free.

        Raises `ImageTooLargeError` if `size` exceeds the limit.
        """
        if size > self.limit:
            raise ImageTooLargeError(
                f"decoding the image would take some {size} bytes of memory; "
                f"at most {self.limit} are allowed (max_decoding_bytes)"
            )
        size = int(min(size + spare, self.limit))
        with self._changed:
            me = object()
            self._line.append(me)
            began = time.perf_counter()
            self._changed.wait_for(lambda: self._line[0] is me and self.held + size <= self.limit)
            self._of_thread.waited_s = self.waited_s() + time.perf_counter() - began
            self._line.popleft()
            self.held += size
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.held -= size
                self._changed.notify_all()
