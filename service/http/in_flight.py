"""Images on their way over the threads, and the sharing of one way by identical images.

Used on the event loop alone, but for what a thread notes in a `Way` of its decoding.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.batching.ticket import Answer
from service.http.deadline import Urgency

_NEARLY = 0.1
"""By so much of its time left, another's deadline may be later than an image's own: of two requests
that arrive together, the later one can be the first to have its body."""


@dataclass(slots=True)
class Way:
    """What becomes of one image on the threads."""

    urgency: Urgency
    future: asyncio.Future[Answer] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    started: float = field(default_factory=time.perf_counter)
    decode_s: float | None = None  # with the wait for a thread
    width: int = 0
    height: int = 0
    waiters: int = 0


class InFlight:
    """Ways of images by what they hold.

    An image joins a way that is nearly as urgent as itself: one with a much later deadline or a
    lower priority might be too late for it.
    """

    def __init__(self) -> None:
        self._ways: dict[tuple[str, bytes], Way] = {}

    def join(
        self, model: str, image: bytes, urgency: Urgency, start: Callable[[Way], None]
    ) -> tuple[Way, bool]:
        """Give the way of an identical image, or start one; and whether it was there."""
        key = model, image
        there = self._ways.get(key)
        if (
            there is not None
            and not there.future.done()
            and there.urgency.deadline <= urgency.deadline + _NEARLY * urgency.left_s()
            and there.urgency.priority <= urgency.priority
        ):
            return there, True
        way = Way(urgency)
        start(way)
        self._ways[key] = way  # a more urgent one takes the place: more can join it
        way.future.add_done_callback(lambda _: self._forget(key, way))
        return way, False

    def _forget(self, key: tuple[str, bytes], way: Way) -> None:
        if self._ways.get(key) is way:
            del self._ways[key]


async def answer_of(way: Way) -> Answer:
    """Wait for the answer; when the last waiter is cancelled, so is the way."""
    way.waiters += 1
    try:
        return await asyncio.shield(way.future)
    finally:
        way.waiters -= 1
        if not way.waiters:
            way.future.cancel()
