"""What all doors share. Created once and passed in; there is no module-level state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service import __version__
from service.access.guard import Guard
from service.access.scopes import Scope
from service.batching.admission import ByteGate
from service.batching.decode_pool import DecodePool
from service.cpus import cpu_count
from service.engine.base import Opener
from service.errors import AdminOffError
from service.inference.explanation import Explainer
from service.inference.pipeline import Pipeline
from service.inference.shadow import Shadow
from service.live import LiveSummary
from service.metrics import Metrics
from service.models.changes import Changes
from service.models.control import Control
from service.models.folder_watch import FolderWatch
from service.models.loader import load_repository
from service.models.recall import Recall
from service.models.repository import Repository
from service.models.rollouts import Rollouts
from service.preprocess.decode import DecodePolicy, prepare_decoding
from service.preprocess.memory import DecodingMemory
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
    explainer: Explainer
    live: LiveSummary
    guard: Guard | None = None
    """Judges API keys; None: there are none, and everything but admin calls is open."""
    started: float = field(default_factory=time.monotonic)
    draining: bool = False
    stop_by: float = 0.0  # of time.monotonic()
    warm_up_stop: threading.Event = field(default_factory=threading.Event)
    begin_grpc_stop: Callable[[float], None] = lambda _: None
    """Makes the gRPC front, if there is one, take no more calls; takes the seconds it may last."""
    given_up: int = 0  # requests that were abandoned when stopping took too long

    def authorize(self, authorization: bytes | None, scope: Scope) -> str | None:
        """Return the name of the key in an Authorization header; None if there are no keys.

        Raises `AdminOffError`, or what `Guard.admit` does.
        """
        if self.guard is not None:
            return self.guard.admit(authorization, scope)
        if scope is Scope.ADMIN and not self.settings.admin:
            raise AdminOffError
        return None

    def begin_drain(self) -> None:
        """Become unready, and set the time by which everything must have ended."""
        self.draining = True
        self.stop_by = (
            time.monotonic() + self.settings.drain_delay_s + self.settings.drain_timeout_s
        )

    def unready_reasons(self) -> list[str]:
        """Return why the service is not ready; empty if it is."""
        repository = self.repository
        reasons = ["draining"] if self.draining else []
        unready = {
            repository.models.title(m): m.reason
            for m in repository.models.needed()
            if m.state != "ready"
        }
        found = repository.troubles() | unready
        return [*reasons, *(f"{name}: {reason}" for name, reason in found.items())]

    def left_to_stop_s(self) -> float:
        """Return the seconds left for stopping; never less than half a second."""
        return max(_LEAST_STOP_S, self.stop_by - time.monotonic())


def create_runtime(settings: Settings, opener: Opener | None = None) -> Runtime:
    """Load the models and create what the doors share.

    `opener` opens model files instead of ONNX Runtime. Raises a `StartupError` if the service can't
    start with these settings.
    """
    metrics = Metrics()
    metrics.set_build(__version__)
    guard = None
    if settings.api_keys is not None:
        guard = Guard(settings.api_keys, metrics.count_key, metrics.forget_key)
    memory = DecodingMemory(settings.max_decoding_bytes)
    decode_pool = DecodePool(settings.decode_threads or cpu_count(), memory.waited_s)
    repository = load_repository(settings, metrics, decode_pool, opener)
    changes = Changes(repository, settings, metrics)
    repository.on_evicted = Recall(changes).refuse
    prepare_decoding()
    policy = DecodePolicy(settings.max_image_pixels, settings.jpeg_draft_ratio, memory)
    body_bytes = ByteGate(settings.max_inflight_bytes)
    metrics.watch_bytes(lambda: body_bytes.held)
    rollouts = Rollouts(repository, settings, metrics)
    inference = Pipeline(decode_pool, policy, metrics, coalesce=settings.coalesce)
    inference.on_answer = Shadow(rollouts, repository, body_bytes).offer
    return Runtime(
        settings=settings,
        repository=repository,
        control=Control(changes),
        rollouts=rollouts,
        folder_watch=FolderWatch(changes, metrics) if settings.watch else None,
        metrics=metrics,
        body_bytes=body_bytes,
        decode_pool=decode_pool,
        inference=inference,
        explainer=Explainer(decode_pool, policy),
        live=LiveSummary(metrics),
        guard=guard,
    )
