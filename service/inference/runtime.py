"""What all protocols share. Created in `app.py` and passed in; there is no module-level state."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from service.batching.admission import ByteGate
from service.batching.decode_pool import DecodePool
from service.inference.pipeline import Pipeline
from service.metrics import Metrics
from service.models.control import Control
from service.models.folder_watch import FolderWatch
from service.models.repository import Repository
from service.models.rollouts import Rollouts
from service.settings import Settings

_LEAST_STOP_S = 0.5


@dataclass
class Runtime:
    """The running service's settings, models and shared state."""

    settings: Settings
    repository: Repository
    control: Control
    rollouts: Rollouts
    folder_watch: FolderWatch | None
    metrics: Metrics
    body_bytes: ByteGate
    decode_pool: DecodePool
    inference: Pipeline
    started: float = field(default_factory=time.monotonic)
    draining: bool = False
    stop_by: float = 0.0  # of time.monotonic()
    warm_up_stop: threading.Event = field(default_factory=threading.Event)
    given_up: int = 0  # requests that were abandoned when stopping took too long

    def begin_drain(self) -> None:
        """Become unready, and set the time by which everything must have ended."""
        self.draining = True
        self.stop_by = (
            time.monotonic() + self.settings.drain_delay_s + self.settings.drain_timeout_s
        )

    def left_to_stop_s(self) -> float:
        """Return the seconds left for stopping; never less than half a second."""
        return max(_LEAST_STOP_S, self.stop_by - time.monotonic())
