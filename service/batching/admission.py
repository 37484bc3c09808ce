"""Admission control: a request that can't be answered in time is refused now, not after queueing.

A request is admitted if, according to the plan,

1. it is answered in time, after everything that is running or waiting with the same deadline or
   an earlier one (`plan.py`), and
2. every high-priority request that was admitted earlier, is due later and would be on time without
   it, is still on time: admission is a promise that no later request may break.

Apart from that, work that is due later never counts against a request, which is served before it.
An idle device refuses nothing for lack of time, whatever the plan says: plans can be wrong, and
only running the work shows it. Low-priority requests are promised nothing beyond their own plan.

Where batching doesn't pay, as on a busy CPU, plans are exact except for the durations they assume.
Where it does, an image with little time left can force a smaller batch than planned, and a request
that becomes late by it fails at its deadline. With several runners the same can happen, though
rarely, to a request overtaken by a later image of a fast model with an earlier deadline.

Everything here runs on the event loop only, so it needs no lock.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence

from service.batching.costs import Work
from service.batching.demand import Demand, Rank
from service.batching.latency import LatencyTable
from service.batching.plan import DeviceLoad, Load
from service.batching.prediction_error import PredictionErrors
from service.batching.ticket import Priority, half_time
from service.errors import (
    DeadlineUnreachableError,
    InflightBytesError,
    QueueFullError,
)


class ImageGate:
    """Counts a model's images from before they are decoded until they are answered.

    `patience_s` is the default request timeout, in seconds; requests with a longer one may take up
    at most half of `limit`.
    """

    def __init__(
        self,
        limit: int,
        *,
        max_batch: int = 1,
        latencies: LatencyTable | None = None,
        device: DeviceLoad | None = None,
        patience_s: float = math.inf,
    ) -> None:
        self.limit = limit
        self.max_batch = max_batch
        self.latencies = latencies or LatencyTable()
        self.demand = Demand()
        self.admitted = 0
        """Images admitted and not yet answered."""
        self._patience_s, self._patient = patience_s, 0
        self._when_empty: asyncio.Future[None] | None = None
        self._reservations: set[Reservation] = set()
        # Separate, since being overtaken makes a request late without the plan being wrong.
        self._prediction_errors = {priority: PredictionErrors() for priority in Priority}
        self._device = device or DeviceLoad()
        self._device.gates.append(self)

    def check(
        self, images: int, deadline: float, priority: Priority, works: Sequence[Work] = ()
    ) -> float:
        """Return the planned seconds until the answer, or refuse the request.

        `works` is what is known of the images before they are decoded; empty before they arrive.
        Raises `QueueFullError`, or `DeadlineUnreachableError` if the request, or others because of
        it, would be late. Both say after how many seconds a retry is worthwhile.
        """
        return self.admit(images, deadline, priority, works).planned_s

    def admit(
        self,
        images: int,
        deadline: float = math.inf,
        priority: Priority = Priority.HIGH,
        works: Sequence[Work] = (),
    ) -> Reservation:
        """Return a context manager that holds places for all images of a request.

        Raises what `check` raises.
        """
        now = time.perf_counter()
        self._check_places(images, deadline - now)
        rank, load = Rank(deadline, priority, half_time(now, deadline)), self._load(images, works)
        planned_s = self._device.planned_s(rank, self, now, own=load)
        if not self._device.is_idle:
            planned_s = self._check_times(planned_s, rank, load, now)
        return Reservation(self, rank, load, now, planned_s)

    def _check_times(self, planned_s: float, rank: Rank, load: Load, now: float) -> float:
        time_left_s = rank.deadline - now
        needed_s = self.needed_s(planned_s, rank, now)
        if needed_s > time_left_s and not self.admitted and self._doubts(load.images, time_left_s):
            planned_s = self._device.planned_s(rank, self, now, own=load)
            needed_s = self.needed_s(planned_s, rank, now)
        if needed_s > time_left_s:
            raise DeadlineUnreachableError(
                f"the answer would take about {needed_s * 1000:.0f} ms, but only "
                f"{max(time_left_s, 0) * 1000:.0f} ms are left; try again later or allow more "
                "time (X-Request-Timeout-Ms)",
                retry_after_s=_whole_seconds(needed_s - time_left_s),
            )
        late_s = max([gate.late_s(rank, load, now) for gate in self._device.gates])
        if late_s > 0:
            raise DeadlineUnreachableError(
                "images that were accepted earlier and are due later would miss their deadlines; "
                "try again later or allow more time (X-Request-Timeout-Ms)",
                retry_after_s=_whole_seconds(late_s),
            )
        return planned_s

    def _check_places(self, images: int, time_left_s: float) -> None:
        excess = self.admitted + images - self.limit
        if excess > 0:
            raise QueueFullError(
                f"{self.admitted} images are waiting or being answered, and {images} more would "
                f"exceed the limit of {self.limit} (max_queue); try again later",
                retry_after_s=_whole_seconds(self._drain_s(excess)),
            )
        if not self.admitted or time_left_s <= self._patience_s:
            return
        excess = self._patient + images - self.limit // 2
        if excess > 0:
            raise QueueFullError(
                f"{self._patient} images with timeouts above {self._patience_s:g} s are waiting or "
                f"being answered, and {images} more would exceed {self.limit // 2}, half of "
                "max_queue; try again later or with a shorter timeout (X-Request-Timeout-Ms)",
                retry_after_s=_whole_seconds(self._drain_s(excess)),
            )

    def _load(self, images: int, works: Sequence[Work]) -> Load:
        decoding = self._device.decoding
        if decoding is None or not works:
            return Load(self, images)
        seconds = [decoding.expect_s(work) for work in works]
        return Load(self, images, sum(seconds), max(seconds))

    def _doubts(self, images: int, time_left_s: float) -> bool:
        """Doubt stale measurements that admit no request and so would never be corrected."""
        alone_s, _ = self.latencies.plan(images, self.max_batch)
        if not self.latencies.is_stale or alone_s <= time_left_s:
            return False
        self.latencies.doubt()
        return True

    def late_s(self, rank: Rank, load: Load, now: float) -> float:
        """Return by how many seconds a load of that rank would make an admitted request late.

        0 if it makes none late, or only requests that are late anyway. The time needed grows with
        the deadline, except for the longest image. So a range of requests is on time if its last
        one, assumed to have the longest image of all, needs no more time than its first one has.
        """
        device, decoding = self._device, self._device.decoding
        deadlines = list(dict.fromkeys(self.demand.later(rank.deadline)))
        spans = [(0, len(deadlines))] if deadlines else []
        while spans:
            begin, end = spans.pop()
            left_s, last = deadlines[begin] - now, Rank(deadlines[end - 1])
            longest_s = decoding.longest_s(deadlines[begin], last.deadline) if decoding else 0.0
            own = Load(longest_s=longest_s)
            late_s = self.needed_s(device.planned_s(last, self, now, load, own), last, now) - left_s
            if late_s <= 0:
                continue
            if device.planned_s(Rank(deadlines[begin]), self, now) > last.deadline - now:
                continue  # all of them are late in any case
            if end - begin > 1:
                middle = (begin + end) // 2
                spans += [(middle, end), (begin, middle)]
            elif device.planned_s(last, self, now, own=own) <= left_s:
                return late_s
        return 0.0

    def learn(self, planned_s: float, took_s: float, priority: Priority) -> None:
        """Record how long a request was planned to take and how long it took."""
        self._prediction_errors[priority].learn(planned_s, took_s, time.perf_counter())

    def hold(self, reservation: Reservation) -> None:
        """Count a request's images in, and lengthen the plans of those it overtakes."""
        seconds = self._device.alone_s(reservation.load)
        for gate in self._device.gates:
            gate.put_off(reservation.rank, seconds)
        self._reservations.add(reservation)
        self.demand.add(reservation.rank, reservation.load.images)
        self.admitted += reservation.load.images
        self._patient += reservation.load.images if self._is_patient(reservation) else 0

    async def emptied(self) -> None:
        """Wait until no admitted image is left; the caller must not admit any meanwhile."""
        if self.admitted:
            self._when_empty = asyncio.get_running_loop().create_future()
            await self._when_empty

    def leave(self) -> None:
        """Remove this gate from the device's plans."""
        self._device.gates.remove(self)

    def let_go(self, reservation: Reservation) -> None:
        """Count a request's images out."""
        self._reservations.remove(reservation)
        if reservation.left:
            self.demand.remove(reservation.rank, reservation.left)
            reservation.left = 0
        self.admitted -= reservation.load.images
        if not self.admitted and self._when_empty is not None and not self._when_empty.done():
            self._when_empty.set_result(None)
        self._patient -= reservation.load.images if self._is_patient(reservation) else 0

    def shrink(self, reservation: Reservation) -> None:
        """Count one of a request's images out of the plans; its place is kept until the end."""
        self.demand.remove(reservation.rank, reservation.left)
        reservation.left -= 1
        if reservation.left:
            self.demand.add(reservation.rank, reservation.left)

    def put_off(self, rank: Rank, seconds: float) -> None:
        """Lengthen the plans of the requests that work of that rank overtakes."""
        if not (self.demand.has_low or self.demand.later(rank.deadline)):
            return
        low, due = Priority.LOW, rank.deadline
        for reservation in self._reservations:
            other = reservation.rank
            if other.priority is not rank.priority:
                is_passed = other.priority is low
            else:
                is_passed = other.deadline > due
            if is_passed:
                reservation.planned_s += seconds

    def _is_patient(self, reservation: Reservation) -> bool:
        return reservation.rank.deadline - reservation.asked_at > self._patience_s

    def needed_s(self, planned_s: float, rank: Rank, now: float) -> float:
        """Return the seconds that a request must have left to be admitted.

        A request admitted with no time to spare runs at the last moment, in a batch small enough
        to make it. Under load that would happen to every request, and small batches are slow. So
        behind a full batch, a request also needs time for the error of plans and for batches of
        the best size.
        """
        errors = self._prediction_errors[rank.priority]
        needed_s = errors.expected_s(planned_s, now)
        if self.demand.before(rank, now) >= self.max_batch:
            size = self.latencies.best_size(self.max_batch, math.inf)
            needed_s += errors.margin_s(now) + 2 * self.latencies.p95_s(size)
        return needed_s

    def _drain_s(self, images: int) -> float:
        seconds, _ = self.latencies.plan(images, self.max_batch)
        return seconds / self._device.runners


class Reservation:
    """The places of one request, held within a `with` block."""

    def __init__(
        self, gate: ImageGate, rank: Rank, load: Load, asked_at: float, planned_s: float
    ) -> None:
        self._gate, self.rank, self.load, self.asked_at = gate, rank, load, asked_at
        self.left = load.images
        """Images that are not done yet."""
        self.planned_s = planned_s
        """Planned seconds until the answer; grows when others overtake it."""
        self.is_tried = planned_s > rank.deadline - asked_at
        """Whether it was admitted with too long a plan because the device was idle."""

    def __enter__(self) -> Reservation:
        """Hold the places."""
        self._gate.hold(self)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Release the places."""
        self._gate.let_go(self)
        if isinstance(error, asyncio.CancelledError):
            self.was_late()

    def image_done(self) -> None:
        """Count one image out of the plans, before the others of its request are done.

        Otherwise the others would seem to be late in any case, and not be kept from being so.
        """
        if self.left:  # else all were counted out together
            self._gate.shrink(self)

    def answered(self) -> None:
        """Let the gate learn from it; call it only if all images were run for this request."""
        self._gate.learn(self.planned_s, self._took_s(), self.rank.priority)

    def was_late(self) -> None:
        """Let the gate learn from it if it was abandoned after longer than planned."""
        if self._took_s() > self.planned_s:
            self.answered()

    def _took_s(self) -> float:
        return time.perf_counter() - self.asked_at


def _whole_seconds(seconds: float) -> int:
    """Round up for Retry-After, which takes whole seconds (RFC 9110, section 10.2.3)."""
    return max(1, math.ceil(seconds))


class ByteGate:
    """Counts the bytes of all request bodies in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    def check(self, size: int) -> None:
        """Raise `InflightBytesError` if `size` more bytes would exceed the limit."""
        if self.held + size > self.limit:
            raise InflightBytesError(
                f"{self.held} bytes of request bodies are in flight, and {size} more would exceed "
                f"the limit of {self.limit} (max_inflight_bytes); try again later"
            )

    def take(self, size: int) -> None:
        """Hold `size` more bytes, or raise as `check` does and hold none."""
        self.check(size)
        self.held += size

    def give_back(self, size: int) -> None:
        """Release `size` bytes."""
        self.held -= size


class HeldBytes:
    """A body's bytes in a gate, taken as they arrive and released when the block ends.

    The Content-Length is not reserved: a mere announcement must not keep others out.
    """

    def __init__(self, gate: ByteGate) -> None:
        self.gate = gate
        self.size = 0

    def grow_by(self, size: int) -> None:
        """Take `size` more bytes, or raise `InflightBytesError`."""
        self.gate.take(size)
        self.size += size

    def __enter__(self) -> HeldBytes:
        """Start with no bytes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release all bytes."""
        self.gate.give_back(self.size)
