"""What the routes share. Made in `app.py`, passed in, and no module-level state anywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import HTTPConnection

from service.batching.admission import ByteGate, DecodeMeter
from service.metrics import Metrics
from service.preprocess.decode import DecodePolicy
from service.repository import Repository
from service.settings import Settings

T = TypeVar("T")


@dataclass
class Service:
    """The running service."""

    settings: Settings
    repository: Repository
    metrics: Metrics
    body_bytes: ByteGate
    decode_policy: DecodePolicy
    decode_pool: ThreadPoolExecutor
    decoding: DecodeMeter
    started: float = field(default_factory=time.monotonic)
    draining: bool = False
    given_up: int = 0  # requests left without their answer when stopping took too long

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Run work that would hold up the event loop on a decode thread.

        The pool's queue has no bound of its own; the gates in front of it are its bound.
        """
        return await asyncio.get_running_loop().run_in_executor(self.decode_pool, work)


def service_of(connection: HTTPConnection) -> Service:
    """Give the service that a request belongs to."""
    service: Service = connection.app.state.service
    return service
