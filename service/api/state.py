"""What the routes share. Made in `app.py`, passed in, and no module-level state anywhere."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import HTTPConnection

from service.batching.admission import ByteGate, DecodeMeter
from service.errors import StoppingError
from service.metrics import Metrics
from service.preprocess.decode import DecodePolicy
from service.repository import Repository
from service.settings import Settings

T = TypeVar("T")

_LEAST_STOP_S = 0.5


@dataclass
class Service:
    """The running service."""

    settings: Settings
    repository: Repository
    metrics: Metrics
    body_bytes: ByteGate
    decode_policy: DecodePolicy
    decode_threads: int
    decoding: DecodeMeter
    started: float = field(default_factory=time.monotonic)
    draining: bool = False
    stop_by: float = 0.0  # of time.monotonic()
    warm_up_stop: threading.Event = field(default_factory=threading.Event)
    given_up: int = 0  # requests left without their answer when stopping took too long

    def __post_init__(self) -> None:
        """Make a slot for each decode thread."""
        self._slots = asyncio.Semaphore(self.decode_threads)
        self._pool = ThreadPoolExecutor(self.decode_threads, thread_name_prefix="decode")

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Run work that would hold up the event loop on a decode thread.

        Who waits for a thread waits here and not in the pool's queue, where the work of a client
        that has gone would keep its image in memory.
        """
        loop = asyncio.get_running_loop()
        await self._slots.acquire()
        try:
            running = self._pool.submit(work)
        except RuntimeError:
            self._slots.release()
            raise StoppingError("the service is stopping") from None
        # Released when the thread is free, which after a cancellation is later than the waiter.
        running.add_done_callback(lambda _: _call_if_open(loop, self._slots.release))
        return await asyncio.wrap_future(running)

    def begin_drain(self) -> None:
        """Let readiness go, and set the time by which all has to end."""
        self.draining = True
        self.stop_by = (
            time.monotonic() + self.settings.drain_delay_s + self.settings.drain_timeout_s
        )

    def left_to_stop_s(self) -> float:
        """Seconds left for stopping; a moment even when the time is over."""
        return max(_LEAST_STOP_S, self.stop_by - time.monotonic())

    def close_pool(self) -> None:
        """Take no more work for the decode threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _call_if_open(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
        loop.call_soon_threadsafe(call)


def service_of(connection: HTTPConnection) -> Service:
    """Give the service that a request belongs to."""
    service: Service = connection.app.state.service
    return service
