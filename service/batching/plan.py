"""Predicts when a request would be answered, from the work ahead of it on its device.

Ahead of it is all running work, since that can't be stopped, and all waiting work that is served
first: work with the same deadline or an earlier one, by priority (`Rank`). Work that is due later
is ignored, however much there is.

Work is divided among threads by Graham's bound for list scheduling: no thread is idle until a
request's last piece begins, so that piece begins no later than when all threads have been filled
evenly with the work ahead of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from service.batching.costs import Work
from service.batching.demand import Demand, Rank, who_passes
from service.batching.latency import LatencyTable
from service.batching.schedule import RunningBatch
from service.batching.ticket import Priority


class Decoding(Protocol):
    """What plans need to know about decoding."""

    @property
    def is_idle(self) -> bool:
        """Return whether no job is waiting or running."""

    def expect_s(self, work: Work) -> float:
        """Predict how many seconds a job takes on one thread."""

    def rests_s(self) -> list[float]:
        """Predict how many more seconds each running job takes."""

    def before_s(self, rank: Rank, until: float) -> float:
        """Return the seconds of waiting work, on one thread, that go before that rank."""

    def longest_s(self, first: float, last: float) -> float:
        """Predict the longest waiting high-priority job due from `first` to `last`, in seconds."""


class Gate(Protocol):
    """What plans and the other gates of its device need of a model's gate."""

    latencies: LatencyTable
    max_batch: int
    demand: Demand
    """Its images by rank, including running ones."""

    def late_s(self, rank: Rank, load: Load, now: float) -> float:
        """Return by how many seconds a load of that rank would make an admitted request late."""

    def put_off(self, rank: Rank, seconds: float) -> None:
        """Lengthen the plans of the requests that work of that rank overtakes."""


class Load(NamedTuple):
    """The work of a request: a number of images for one model, with their decoding.

    For an admitted request only `longest_s` is set: the demand already includes the rest.
    """

    of: Gate | None = None
    images: int = 0
    decode_s: float = 0.0  # of all, on one thread
    longest_s: float = 0.0  # of the image that takes longest


NOTHING = Load()


class DeviceLoad:
    """A device's threads, its models' gates and its running batches; predicts answer times."""

    def __init__(self, runners: int = 1, decoding: Decoding | None = None) -> None:
        self.runners = runners
        """How many batches are run at a time."""
        self.decoding = decoding
        self.decoders = 1
        """How many images are decoded at a time."""
        self.shares_threads = False
        """Whether the decoding threads also run the batches."""
        self.gates: list[Gate] = []
        self.running: Callable[[], Sequence[RunningBatch]] = tuple
        """Returns the batches in progress."""

    @property
    def is_idle(self) -> bool:
        """Return whether there is no work at all."""
        for gate in self.gates:
            if gate.demand:
                return False
        return self.decoding is None or self.decoding.is_idle

    def planned_s(
        self, rank: Rank, of: Gate, now: float, more: Load = NOTHING, own: Load = NOTHING
    ) -> float:
        """Predict the seconds until a model answers work of that rank.

        `own` is the load of that work, `more` an additional load ahead of it.
        """
        view = _View(self, of, more, own)
        if rank.priority is Priority.LOW:
            # Once it moves up, only work that is due earlier is ahead of it.
            waits_s = max(0.0, rank.moves_up_at - now)
            moved_up = Rank(rank.deadline)
            return min(view.finish_s(rank, now), waits_s + view.finish_s(moved_up, math.inf))
        planned_s = view.finish_s(rank, now)
        while view.has_low():  # work that moves up meanwhile may overtake it, then more may move up
            later_s = view.finish_s(rank, now + planned_s)
            if later_s <= planned_s:
                break
            planned_s = later_s
        return planned_s

    def alone_s(self, load: Load) -> float:
        """Return by how many seconds a load delays the work after it."""
        if load.of is None:
            return 0.0
        infer_s, _ = load.of.latencies.plan(load.images, load.of.max_batch)
        return infer_s / self.runners + load.decode_s / self.decoders


class _View:
    """A snapshot of a device, for planning requests to one of its models."""

    __slots__ = ("_device", "_more", "_of", "_own", "_rests", "_running")

    def __init__(self, device: DeviceLoad, of: Gate, more: Load, own: Load) -> None:
        self._device, self._of, self._more, self._own = device, of, more, own
        self._running = device.running()
        self._rests = [] if device.decoding is None else device.decoding.rests_s()

    def has_low(self) -> bool:
        """Return whether low-priority images are waiting or running."""
        return any(gate.demand.has_low for gate in self._device.gates)

    def finish_s(self, rank: Rank, until: float) -> float:
        """Return the seconds until the answer, counting work that moves up by `until` as high."""
        device, own = self._device, self._own
        others_s = 0.0
        for gate in device.gates:
            if gate is not self._of:
                others_s += self._others_s(gate, rank, until)
        waiting = self._waiting(self._of, rank, until) + own.images
        # Idle runners divide waiting images, so a batch may be smaller than the table's best.
        most = min(self._of.max_batch, -(-waiting // device.runners))
        own_s, last_s = self._of.latencies.plan(waiting, most)
        before_s = others_s + own_s - last_s
        batches = [batch.rest_s for batch in self._running]
        if device.decoding is None:
            return filled_s(batches, device.runners, before_s) + last_s
        decode_s = device.decoding.before_s(rank, until) + self._more.decode_s
        if not device.shares_threads:
            # In parallel: the slower one decides, and one image is decoded before any batch runs.
            first_s = filled_s(self._rests, device.decoders, decode_s)
            first_s += own.decode_s / max(own.images, 1)
            all_s = filled_s(self._rests, device.decoders, decode_s + own.decode_s - own.longest_s)
            infer_s = filled_s(batches, device.runners, before_s) + last_s
            return max(all_s + own.longest_s, first_s + infer_s)
        # A batch may occupy the cores of several threads, and a decode those of several batches.
        threads = max(device.runners, device.decoders)
        per_batch, per_decode = threads / device.runners, threads / device.decoders
        work_s = per_batch * before_s + per_decode * (decode_s + own.decode_s - own.longest_s)
        work_s += (per_batch - 1) * sum(batches) + (per_decode - 1) * sum(self._rests)
        return filled_s([*batches, *self._rests], threads, work_s) + own.longest_s + last_s

    def _waiting(self, gate: Gate, rank: Rank, until: float) -> int:
        """Return the number of a model's images that are not running and go before that rank."""
        count = int(gate.demand.before(rank, until))
        if count:
            for batch in self._running:
                if batch.latencies is gate.latencies:
                    count -= len(who_passes(batch.tickets, rank, until))
        return max(0, count) + (self._more.images if self._more.of is gate else 0)

    def _others_s(self, gate: Gate, rank: Rank, until: float) -> float:
        """Return the seconds of another model's batches that go before that rank."""
        waiting = self._waiting(gate, rank, until)
        if not waiting:
            return 0.0
        # Their last batch is filled up with images that are due later.
        size = gate.latencies.best_size(gate.max_batch, math.inf)
        later = int(gate.demand.total) - waiting
        return gate.latencies.plan(waiting + max(0, min(-waiting % size, later)), gate.max_batch)[0]


def filled_s(rests_s: Sequence[float], threads: int, work_s: float) -> float:
    """Return the seconds until threads have finished `work_s` of freely divisible work.

    `rests_s` has the remaining seconds of each busy thread; the others are free at once. With more
    entries than threads, as when batches wait for a GPU, some are run after others.
    """
    if not rests_s or len(rests_s) > threads:
        return (work_s + sum(rests_s)) / threads
    free = [0.0] * (threads - len(rests_s)) + sorted(rests_s)
    busy_s = work_s
    for count, next_s in enumerate(free):
        if count and busy_s <= next_s * count:
            return busy_s / count
        busy_s += next_s
    return busy_s / len(free)
