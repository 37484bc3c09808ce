"""Pending images, and the sharing of one computation by identical images.

Used on the event loop only, except that a decoding thread fills in its `PendingImage`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.batching.ticket import ONLY_PROBABILITIES, TicketResult
from service.inference.deadline import RequestDeadline

_NEARLY = 0.1
"""Share of an image's remaining time by which a shared one's deadline may be later than its own: of
two requests that arrive together, the later one may have its body first."""


_Key = tuple[object, bytes, tuple[str, ...]]
"""A model, an encoded image and the outputs that are wanted."""


@dataclass(slots=True)
class PendingImage:
    """An image that is being decoded, queued or run."""

    due: RequestDeadline
    future: asyncio.Future[TicketResult] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    started: float = field(default_factory=time.perf_counter)
    decode_s: float | None = None  # including the wait for a thread
    width: int = 0
    height: int = 0
    outputs: tuple[str, ...] = ONLY_PROBABILITIES
    waiters: int | None = None
    """How many wait for it; None if identical images don't share it."""

    async def result(self) -> TicketResult:
        """Return its result; if the last waiter is cancelled, so is the computation."""
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
    """The pending images by content.

    An image only joins one that is about as urgent or more so: one with a much later deadline or a
    lower priority might be too late for it.
    """

    def __init__(self) -> None:
        self._pending: dict[_Key, PendingImage] = {}

    def join(
        self,
        model: object,
        image: bytes,
        outputs: tuple[str, ...],
        due: RequestDeadline,
        start: Callable[[PendingImage], None],
    ) -> tuple[PendingImage, bool]:
        """Return the pending image with the same content, and whether it was there or is new.

        Only those of which the same outputs are wanted are the same.
        """
        key = model, image, outputs
        there = self._pending.get(key)
        if (
            there is not None
            and not there.future.done()
            and there.due.deadline <= due.deadline + _NEARLY * due.left_s()
            and there.due.priority <= due.priority
        ):
            return there, True
        pending = PendingImage(due, outputs=outputs, waiters=0)
        start(pending)
        self._pending[key] = pending  # a more urgent one replaces it, since more images can join it
        pending.future.add_done_callback(lambda _: self._forget(key, pending))
        return pending, False

    def _forget(self, key: _Key, pending: PendingImage) -> None:
        if self._pending.get(key) is pending:
            del self._pending[key]
