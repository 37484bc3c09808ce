"""Refusal at the door: a service that can't answer in time says so now, not after a queue.

A request is let in if, by plan,

1. it is answered in time, behind what runs and what waits that is due no later (`plan.py`), and
2. everyone of high priority who was let in before, is due later and would be answered in time
   without it, still is: to be accepted is a promise, and no later request breaks it.

What is due later than a request never speaks against it otherwise, since it is served first. Where
nothing is to be done, a request is let in whatever the plan says: plans may be wrong, and only what
is run can tell. Low priority is promised nothing but its own plan.

Where batches don't pay, as on a busy CPU, plans are exact but for how long the pieces take. Where
they do, an image with little time left can force a smaller batch than was counted on; who gets late
by that is told so at its deadline. On several runners so is, rarely, who is passed by a fast
model's image with an earlier deadline that came later.

All of this is used on the event loop alone, so it needs no lock.
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

    `patience_s` is the time that requests have unless they ask for more; those that do may fill
    half of the places.
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
        """Images let in and not yet answered."""
        self._patience_s, self._patient = patience_s, 0
        self._when_empty: asyncio.Future[None] | None = None
        self._reservations: set[Reservation] = set()
        # Who is passed by others takes longer for no fault of the plans.
        self._prediction_errors = {priority: PredictionErrors() for priority in Priority}
        self._device = device or DeviceLoad()
        self._device.gates.append(self)

    def check(
        self, images: int, deadline: float, priority: Priority, works: Sequence[Work] = ()
    ) -> float:
        """Refuse what does not fit, or could not be answered in time, or would make others late.

        `works` is what is known of the images before they are decoded; nothing while they are not
        there. Gives the seconds that the answer is planned to take. Raises `QueueFullError` or
        `DeadlineUnreachableError`, with the seconds after which a try is worth it.
        """
        return self.admit(images, deadline, priority, works).planned_s

    def admit(
        self,
        images: int,
        deadline: float = math.inf,
        priority: Priority = Priority.HIGH,
        works: Sequence[Work] = (),
    ) -> Reservation:
        """Return places for all images of a request, held while they are entered as a block.

        Refuses as `check` does.
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
                f"the answer would take about {needed_s * 1000:.0f} ms, and only "
                f"{max(time_left_s, 0) * 1000:.0f} ms are left; try again later or allow more "
                "time (X-Request-Timeout-Ms)",
                retry_after_s=_whole_seconds(needed_s - time_left_s),
            )
        late_s = max([gate.late_s(rank, load, now) for gate in self._device.gates])
        if late_s > 0:
            raise DeadlineUnreachableError(
                "images that were accepted before and are due later would get late by it; try "
                "again later or allow more time (X-Request-Timeout-Ms)",
                retry_after_s=_whole_seconds(late_s),
            )
        return planned_s

    def _check_places(self, images: int, time_left_s: float) -> None:
        excess = self.admitted + images - self.limit
        if excess > 0:
            raise QueueFullError(
                f"{self.admitted} images are waiting or being answered and {images} more would "
                f"exceed {self.limit} (max_queue); try again later",
                retry_after_s=_whole_seconds(self._drain_s(excess)),
            )
        if not self.admitted or time_left_s <= self._patience_s:
            return
        excess = self._patient + images - self.limit // 2
        if excess > 0:
            raise QueueFullError(
                f"{self._patient} images with more than {self._patience_s:g} s are waiting or "
                f"being answered and {images} more would exceed {self.limit // 2}, half of "
                "max_queue; try again later or with less time (X-Request-Timeout-Ms)",
                retry_after_s=_whole_seconds(self._drain_s(excess)),
            )

    def _load(self, images: int, works: Sequence[Work]) -> Load:
        decoding = self._device.decoding
        if decoding is None or not works:
            return Load(self, images)
        seconds = [decoding.expect_s(work) for work in works]
        return Load(self, images, sum(seconds), max(seconds))

    def _doubts(self, images: int, time_left_s: float) -> bool:
        """Doubt times of long ago, by which nobody is let in who could tell of better ones."""
        alone_s, _ = self.latencies.plan(images, self.max_batch)
        if not self.latencies.is_stale or alone_s <= time_left_s:
            return False
        self.latencies.doubt()
        return True

    def late_s(self, rank: Rank, load: Load, now: float) -> float:
        """Return the seconds by which a load of that rank would make late who is let in here.

        0 if nobody is, or only who is late in any case. Needs grow with deadlines, but for the
        longest image: if the last of some needs no more time than the first has, were the longest
        of all its own, then all are in time.
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
        """Take note of how long a request was planned to take and took."""
        self._prediction_errors[priority].learn(planned_s, took_s, time.perf_counter())

    def hold(self, reservation: Reservation) -> None:
        """Count a request's images in; whom it passes waits longer than was planned."""
        seconds = self._device.alone_s(reservation.load)
        for gate in self._device.gates:
            gate.put_off(reservation.rank, seconds)
        self._reservations.add(reservation)
        self.demand.add(reservation.rank, reservation.load.images)
        self.admitted += reservation.load.images
        self._patient += reservation.load.images if self._is_patient(reservation) else 0

    async def emptied(self) -> None:
        """Wait until no image is let in; others must not be let in meanwhile."""
        if self.admitted:
            self._when_empty = asyncio.get_running_loop().create_future()
            await self._when_empty

    def leave(self) -> None:
        """Be no part of the device's plans any more."""
        self._device.gates.remove(self)

    def let_go(self, reservation: Reservation) -> None:
        """Count a request's images out."""
        self._reservations.remove(reservation)
        self.demand.remove(reservation.rank, reservation.load.images)
        self.admitted -= reservation.load.images
        if not self.admitted and self._when_empty is not None and not self._when_empty.done():
            self._when_empty.set_result(None)
        self._patient -= reservation.load.images if self._is_patient(reservation) else 0

    def put_off(self, rank: Rank, seconds: float) -> None:
        """Add to the plans of those who are passed by somebody of that rank."""
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
        """Return the time that a request must have left: the more, the more there is before it.

        Whoever is let in with none to spare is run at the last moment, in a batch as small as it
        takes to make it; under load that would go for everyone, and small batches are slow. So
        there must be time for how far answers are from plans, and for a batch of the best size.
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
    """The places of one request, held while the block runs."""

    def __init__(
        self, gate: ImageGate, rank: Rank, load: Load, asked_at: float, planned_s: float
    ) -> None:
        self._gate, self.rank, self.load, self.asked_at = gate, rank, load, asked_at
        self.planned_s = planned_s
        """Seconds until the answer, by plan; more once others pass."""
        self.is_tried = planned_s > rank.deadline - asked_at
        """Whether it was let in although the plan was too long, since there was nothing to do."""

    def __enter__(self) -> Reservation:
        """Hold them."""
        self._gate.hold(self)
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Release the places."""
        self._gate.let_go(self)
        if isinstance(error, asyncio.CancelledError):
            self.was_late()

    def answered(self) -> None:
        """Let the gate learn from it; call it if all images were run, and ran for this request."""
        self._gate.learn(self.planned_s, self._took_s(), self.rank.priority)

    def was_late(self) -> None:
        """Let the gate learn from it if it was given up after longer than was planned."""
        if self._took_s() > self.planned_s:
            self.answered()

    def _took_s(self) -> float:
        return time.perf_counter() - self.asked_at


def _whole_seconds(seconds: float) -> int:
    """Retry-After has whole seconds (RFC 9110, section 10.2.3)."""
    return max(1, math.ceil(seconds))


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
