"""Images on their way over the threads, and the sharing of one way by identical images.

Used on the event loop alone, but for what a thread notes in a `PendingImage` of its decoding.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.batching.ticket import ImageResult
from service.http.deadline import RequestDeadline

_NEARLY = 0.1
"""By so much of its time left, another's deadline may be later than an image's own: of two requests
that arrive together, the later one can be the first to have its body."""


@dataclass(slots=True)
class PendingImage:
    """What becomes of one image on the threads."""

    due: RequestDeadline
    future: asyncio.Future[ImageResult] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    started: float = field(default_factory=time.perf_counter)
    decode_s: float | None = None  # with the wait for a thread
    width: int = 0
    height: int = 0
    waiters: int = 0


class Coalescer:
    """Ways of images by what they hold.

    An image joins a way that is nearly as urgent as itself: one with a much later deadline or a
    lower priority might be too late for it.
    """

    def __init__(self) -> None:
        self._pending: dict[tuple[str, bytes], PendingImage] = {}

    def join(
        self, model: str, image: bytes, due: RequestDeadline, start: Callable[[PendingImage], None]
    ) -> tuple[PendingImage, bool]:
        """Give the way of an identical image, or start one; and whether it was there."""
        key = model, image
        there = self._pending.get(key)
        if (
            there is not None
            and not there.future.done()
            and there.due.deadline <= due.deadline + _NEARLY * due.left_s()
            and there.due.priority <= due.priority
        ):
            return there, True
        pending = PendingImage(due)
        start(pending)
        self._pending[key] = pending  # a more urgent one takes the place: more can join it
        pending.future.add_done_callback(lambda _: self._forget(key, pending))
        return pending, False

    def _forget(self, key: tuple[str, bytes], pending: PendingImage) -> None:
        if self._pending.get(key) is pending:
            del self._pending[key]


async def answer_of(pending: PendingImage) -> ImageResult:
    """Wait for the answer; when the last waiter is cancelled, so is the way."""
    pending.waiters += 1
    try:
        return await asyncio.shield(pending.future)
    finally:
        pending.waiters -= 1
        if not pending.waiters:
            pending.future.cancel()
