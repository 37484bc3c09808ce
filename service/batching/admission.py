"""Refusal at the door: a service that can't answer in time says so now, not after a queue.

All of this is used on the event loop alone, so it needs no lock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from service.batching.correction import Correction
from service.batching.latency import LatencyTable
from service.batching.runners import RunningBatch
from service.batching.ticket import Priority
from service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    InflightBytesError,
    QueueFullError,
)

_TOO_LATE = (asyncio.CancelledError, DeadlineExceededError)


class Decoding(Protocol):
    """What admission asks of the decoders."""

    def predict_s(self, images: int) -> float:
        """Seconds until `images` more would be decoded."""

    def work_s(self, images: int) -> float:
        """Seconds that one thread needs for what is not yet decoded and `images` more."""

    @property
    def is_stale(self) -> bool:
        """Whether nothing has been decoded for so long that `forget` is in place."""

    def forget(self) -> None:
        """Forget how long decoding took."""


class Device:
    """What admission knows of a device: its models' gates, its runners and what they run."""

    def __init__(self, runners: int = 1, decoding: Decoding | None = None) -> None:
        self.runners = runners
        """How many batches are computed at a time."""
        self.decoding = decoding
        self.decoding_threads = 0
        """How many threads do both, decode and run batches; 0 where decoders have their own."""
        self.gates: list[ImageGate] = []
        self.running: Callable[[], Sequence[RunningBatch]] = tuple
        """Lists the batches under way."""

    @property
    def admitted(self) -> int:
        """Images of all models that were let in and are not yet answered."""
        return sum([gate.admitted for gate in self.gates])


class ImageGate:
    """Counts a model's images from before they are decoded until they are answered.

    Predicts from that count and the measured times when a new request would be answered, as if it
    ran after everyone of its priority, in batches of the best size. Where batches don't pay, as on
    a busy CPU, that is exact. Where they do, an image with little time left can force a smaller
    batch than was counted on; who gets late by that is told so at its deadline. So is, rarely, who
    is passed by a fast model's image with an earlier deadline that came later, or by images of low
    priority that have moved up.
    """

    def __init__(
        self,
        limit: int,
        *,
        max_batch: int = 1,
        latencies: LatencyTable | None = None,
        device: Device | None = None,
    ) -> None:
        self.limit = limit
        self.max_batch = max_batch
        self._latencies = latencies or LatencyTable()
        self._counts = dict.fromkeys(Priority, 0)
        # Who is passed by others takes longer for no fault of the plans.
        self._corrections = {priority: Correction() for priority in Priority}
        self._device = device or Device()
        self._device.gates.append(self)

    @property
    def admitted(self) -> int:
        """Images let in and not yet answered."""
        return self._counts[Priority.HIGH] + self._counts[Priority.LOW]

    def check(self, images: int, time_left_s: float, priority: Priority) -> float:
        """Refuse what does not fit or could not be answered within `time_left_s`.

        Gives the seconds that the answer is planned to take. Raises `QueueFullError` or
        `DeadlineUnreachableError`, with the seconds after which a try is worth it.
        """
        admitted = self.admitted
        if admitted + images > self.limit:
            excess = admitted + images - self.limit
            raise QueueFullError(
                f"{admitted} images are waiting or being answered and {images} more would "
                f"exceed {self.limit} (max_queue); try again later",
                retry_after_s=self._whole_seconds(self._drain_s(excess)),
            )
        planned_s = self._planned_s(images, priority)
        needed_s = self._needed_s(planned_s, priority)
        if needed_s > time_left_s and not admitted and self._doubts(images, time_left_s):
            planned_s = self._planned_s(images, priority)
            needed_s = self._needed_s(planned_s, priority)
        if needed_s > time_left_s:
            raise DeadlineUnreachableError(
                f"the answer would take about {needed_s * 1000:.0f} ms, and only "
                f"{max(time_left_s, 0) * 1000:.0f} ms are left; try again later or allow more "
                "time (X-Request-Timeout-Ms)",
                retry_after_s=self._whole_seconds(needed_s - time_left_s),
            )
        return planned_s

    def _doubts(self, images: int, time_left_s: float) -> bool:
        """Doubt times of long ago, by which nobody is let in who could tell of better ones."""
        decoding, latencies = self._device.decoding, self._latencies
        slow_decoding = decoding is not None and decoding.is_stale
        if decoding is not None and slow_decoding:
            decoding.forget()
        alone_s, _ = latencies.plan(images, self.max_batch)
        slow_model = latencies.is_stale and alone_s > time_left_s
        if slow_model:
            latencies.doubt()
        return slow_decoding or slow_model

    def admit(
        self, images: int, time_left_s: float = math.inf, priority: Priority = Priority.HIGH
    ) -> Places:
        """Hold places for all images of a request while the block runs.

        Refuses as `check` does, and holds none then.
        """
        planned_s = self.check(images, time_left_s, priority)
        return Places(self, images, priority, planned_s)

    def learn(self, planned_s: float, took_s: float, priority: Priority) -> None:
        """Take note of how long a request was planned to take and took."""
        self._corrections[priority].learn(planned_s, took_s, time.perf_counter())

    def hold(self, images: int, priority: Priority) -> None:
        """Count images in; a negative number counts them out."""
        self._counts[priority] += images

    def _planned_s(self, images: int, priority: Priority) -> float:
        """Plan by the measured times alone.

        Where decoding and inference have threads of their own, they run side by side, and the
        slower of them decides; the first image has to be decoded before anything can run.
        """
        running = self._device.running()
        rest_s = sum([batch.rest_s for batch in running])
        others_s = 0.0
        if len(self._device.gates) > 1:
            others = [gate for gate in self._device.gates if gate is not self]
            others_s = sum([gate.backlog_s(priority, running) for gate in others])
        waiting = self._waiting(priority, running) + images
        # Idle runners share out what waits, so a batch may be smaller than the table's best.
        most = min(self.max_batch, -(-waiting // self._device.runners))
        own_s, last_s = self._latencies.plan(waiting, most)
        # Graham's bound for list scheduling: when the last batch begins, no runner was idle.
        infer_s = (rest_s + others_s + own_s - last_s) / self._device.runners + last_s
        decoding, threads = self._device.decoding, self._device.decoding_threads
        if decoding is None:
            return infer_s
        if threads:
            return infer_s + decoding.work_s(images) / threads
        return max(decoding.predict_s(images), decoding.predict_s(0) + infer_s)

    def backlog_s(self, priority: Priority, running: Sequence[RunningBatch]) -> float:
        """Give the seconds of inference that wait here and go before a request of that priority.

        On one runner, and without the batches that run.
        """
        return self._latencies.plan(self._waiting(priority, running), self.max_batch)[0]

    def _waiting(self, priority: Priority, running: Sequence[RunningBatch]) -> int:
        high, low = self._counts[Priority.HIGH], self._counts[Priority.LOW]
        # Which of them run is not known; batches of low priority are not interrupted.
        if priority is Priority.HIGH:
            low = min(low, self.max_batch * self._device.runners)
        runs = sum([batch.images for batch in running if batch.latencies is self._latencies])
        return max(0, high + low - runs)

    def _needed_s(self, planned_s: float, priority: Priority) -> float:
        """Give the time that a request must have left: the more, the more there is before it.

        Whoever is let in with none to spare is run at the last moment, in a batch as small as it
        takes to make it; under load that would go for everyone, and small batches are slow. So
        there must be time for how far answers are from plans, and for a batch of the best size.
        """
        if not self._device.admitted:
            return planned_s
        now, correction = time.perf_counter(), self._corrections[priority]
        needed_s = correction.expected_s(planned_s, now)
        if self.admitted >= self.max_batch:
            size = self._latencies.best_size(self.max_batch, math.inf)
            needed_s += correction.margin_s(now) + 2 * self._latencies.p95_s(size)
        return needed_s

    def _drain_s(self, images: int) -> float:
        seconds, _ = self._latencies.plan(images, self.max_batch)
        return seconds / self._device.runners

    @staticmethod
    def _whole_seconds(seconds: float) -> int:
        """Retry-After has whole seconds (RFC 9110, section 10.2.3)."""
        return max(1, math.ceil(seconds))


class Places:
    """The places of one request, held while the block runs."""

    def __init__(self, gate: ImageGate, images: int, priority: Priority, planned_s: float) -> None:
        self._gate, self._images, self._priority = gate, images, priority
        self._planned_s = planned_s

    def __enter__(self) -> Places:
        """Hold them."""
        self._started = time.perf_counter()
        self._gate.hold(self._images, self._priority)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Give them back; who had waited longer than planned when it was given up tells that."""
        self._gate.hold(-self._images, self._priority)
        if isinstance(error, _TOO_LATE) and self._took_s() > self._planned_s:
            self.answered()

    def answered(self) -> None:
        """Let the gate learn from it; call it if all images were run, and ran for this request."""
        self._gate.learn(self._planned_s, self._took_s(), self._priority)

    def _took_s(self) -> float:
        return time.perf_counter() - self._started


class ByteGate:
    """Counts the bytes of all request bodies in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def check(self, size: int) -> None:
        """Raise `InflightBytesError` if `size` bytes more would be too much now."""
        if self.held + size > self.limit:
            raise InflightBytesError(
                f"{self.held} bytes of request bodies are in flight and {size} more would exceed "
                f"{self.limit} (max_inflight_bytes); try again later"
            )

    def take(self, size: int) -> None:
        """Hold `size` bytes more, or raise as `check` does and hold none."""
        self.check(size)
        self.held += size

    def give_back(self, size: int) -> None:
        """Let go of `size` bytes."""
        self.held -= size
