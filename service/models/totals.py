"""What a model has done since it was loaded, summed over requests."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Total:
    """How often something happened, and the seconds it took together."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Add one that took so long."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Totals:
    """The requests that reached a model, and the stages of those that were answered.

    A request's stages are those of its slowest image. Changed on the event loop only.
    """

    succeeded: Total = field(default_factory=Total)
    failed: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    decode: Total = field(default_factory=Total)
    infer: Total = field(default_factory=Total)
    images: int = 0
    """Images of requests that were answered."""
    last: float = 0.0
    """When the last one was answered, in seconds since the epoch; 0 before the first."""

    def note_answer(
        self, seconds: float, images: int, decode_s: float, queue_s: float, infer_s: float
    ) -> None:
        """Count a request of which every image was answered."""
        self.succeeded.add(seconds)
        self.decode.add(decode_s)
        self.queue.add(queue_s)
        self.infer.add(infer_s)
        self.images += images
        self.last = time.time()
