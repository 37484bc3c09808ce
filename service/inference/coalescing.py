"""Images that are being computed, and the sharing of one computation by identical images.

Used on the event loop alone, but for what a thread notes in a `PendingImage` of its decoding.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.batching.ticket import TicketResult
from service.inference.deadline import RequestDeadline

_NEARLY = 0.1
"""By so much of its time left, another's deadline may be later than an image's own: of two requests
that arrive together, the later one can be the first to have its body."""


@dataclass(slots=True)
class PendingImage:
    """An image that is decoded, queued or run."""

    due: RequestDeadline
    future: asyncio.Future[TicketResult] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    started: float = field(default_factory=time.perf_counter)
    decode_s: float | None = None  # with the wait for a thread
    width: int = 0
    height: int = 0
    waiters: int | None = None
    """How many wait for it, where identical images may share it."""

    async def result(self) -> TicketResult:
        """Wait for its result; when the last waiter is cancelled, so is its computation."""
        if self.waiters is None:
            return await self.future
        self.waiters += 1
        try:
            return await asyncio.shield(self.future)
        finally:
            self.waiters -= 1
            if not self.waiters:
                self.future.cancel()


class Coalescer:
    """The pending images by their content.

    An image joins one that is nearly as urgent as itself: one with a much later deadline or a
    lower priority might be too late for it.
    """

    def __init__(self) -> None:
        self._pending: dict[tuple[object, bytes], PendingImage] = {}

    def join(
        self,
        model: object,
        image: bytes,
        due: RequestDeadline,
        start: Callable[[PendingImage], None],
    ) -> tuple[PendingImage, bool]:
        """Return the pending image of the same content, or start one; and whether it was there."""
        key = model, image
        there = self._pending.get(key)
        if (
            there is not None
            and not there.future.done()
            and there.due.deadline <= due.deadline + _NEARLY * due.left_s()
            and there.due.priority <= due.priority
        ):
            return there, True
        pending = PendingImage(due, waiters=0)
        start(pending)
        self._pending[key] = pending  # a more urgent one takes the place: more can join it
        pending.future.add_done_callback(lambda _: self._forget(key, pending))
        return pending, False

    def _forget(self, key: tuple[object, bytes], pending: PendingImage) -> None:
        if self._pending.get(key) is pending:
            del self._pending[key]
