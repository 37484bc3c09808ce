"""The record of one request, for its log line, metrics and timings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from service.inference.request import StageTimings

_STAGES = ("receive", "decode", "queue", "infer", "explain")

_log = structlog.get_logger("service.request")


def log_request(
    request_id: str,
    client: Sequence[Any] | None,
    status: int,
    code: str | None,
    images: int = 0,
    **more: Any,
) -> None:
    """Write a request's single log line; `client` is ASGI's pair of address and port."""
    # Probes and scrapes come every few seconds and are not worth a line.
    log = _log.info if images or code else _log.debug
    address = client[0] if client else None
    log(
        "request", request_id=request_id, client=address, status=status, code=code,
        images=images, **more,
    )  # fmt: skip


@dataclass(slots=True)
class RequestRecord:
    """What is recorded of a request. Times are in seconds; of several images, the longest."""

    request_id: str
    arrival: float = field(default_factory=time.perf_counter)
    model: str | None = None
    images: int = 0
    code: str | None = None
    key: str | None = None
    """The name of its API key, never the key."""
    receive_s: float | None = None
    stages: StageTimings = field(default_factory=StageTimings)
    _shown_of: tuple[float | None, ...] = ()
    _shown: dict[str, float] = field(default_factory=dict)

    def elapsed_s(self) -> float:
        """Return the seconds since the request's headers were read."""
        return time.perf_counter() - self.arrival

    def note_receive(self) -> None:
        """Record that the body is complete."""
        self.receive_s = self.elapsed_s()

    def timings_ms(self) -> dict[str, float]:
        """Return the durations of the stages passed so far, in milliseconds."""
        passed = self.stages
        stages = (
            self.receive_s, passed.decode_s, passed.queue_s, passed.infer_s, passed.explain_s,
        )  # fmt: skip
        if stages != self._shown_of:  # body, header and log line all show them
            self._shown_of = stages
            self._shown = {
                name: round(seconds * 1000, 3)
                for name, seconds in zip(_STAGES, stages, strict=True)
                if seconds is not None
            }
        return self._shown
