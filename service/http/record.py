"""What is known of one request: for its log line, its metrics and its timings."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import Scope

_KEY = "resnet_serve.trace"
_STAGES = ("receive", "decode", "queue", "infer")


@dataclass(slots=True)
class RequestRecord:
    """One request's notes. Times are seconds; for several images, the longest of each."""

    request_id: str
    arrival: float = field(default_factory=time.perf_counter)
    model: str | None = None
    images: int = 0
    batch_size: int = 0
    code: str | None = None
    receive_s: float | None = None
    decode_s: float | None = None
    queue_s: float | None = None
    infer_s: float | None = None
    _shown_of: tuple[float | None, ...] = ()
    _shown: dict[str, float] = field(default_factory=dict)

    def elapsed_s(self) -> float:
        """Time since the request's headers were read."""
        return time.perf_counter() - self.arrival

    def note_receive(self) -> None:
        """Note that the body is complete."""
        self.receive_s = self.elapsed_s()

    def note_decode(self, seconds: float) -> None:
        """Note that an image is decoded."""
        self.decode_s = max(seconds, self.decode_s or 0.0)

    def note_batch(self, queue_s: float, infer_s: float, batch_size: int) -> None:
        """Note that an image has run."""
        self.queue_s = max(queue_s, self.queue_s or 0.0)
        self.infer_s = max(infer_s, self.infer_s or 0.0)
        self.batch_size = max(batch_size, self.batch_size)

    def timings_ms(self) -> dict[str, float]:
        """Give the stages passed so far, in milliseconds."""
        stages = self.receive_s, self.decode_s, self.queue_s, self.infer_s
        if stages != self._shown_of:  # body, header and log line all show them
            self._shown_of = stages
            self._shown = {
                name: round(seconds * 1000, 3)
                for name, seconds in zip(_STAGES, stages, strict=True)
                if seconds is not None
            }
        return self._shown

    def attach(self, scope: Scope) -> None:
        """Put the trace where `record_of` finds it."""
        scope[_KEY] = self


def record_of(request: Request) -> RequestRecord:
    """Give the trace that the edge middleware attached to this request."""
    record: RequestRecord = request.scope[_KEY]
    return record
