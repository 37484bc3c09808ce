"""When a request would be answered, by what is before it on its device.

Before it is what runs, since that can't be stopped, and what waits and is served first: work of
earlier or equal deadlines, by priority (`Rank`). What is due later does not count, however much it
is.

Work is divided among threads as Graham's bound for list scheduling has it: until a request's last
piece begins, no thread was idle, so that piece begins at the latest when all threads have been
filled evenly with what is before it.
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
    """What plans ask of the decoders."""

    @property
    def is_idle(self) -> bool:
        """Return whether no job waits or is being done."""

    def expect_s(self, work: Work) -> float:
        """Predict how long a job takes a thread."""

    def rests_s(self) -> list[float]:
        """Predict how long each job that is being done still takes."""

    def before_s(self, rank: Rank, until: float) -> float:
        """Seconds of work that wait, for one thread, and are done before somebody of that rank."""

    def longest_s(self, first: float, last: float) -> float:
        """Predict the longest job of high priority that waits and is due from `first` to `last`."""


class Gate(Protocol):
    """What plans ask of a model's gate, and what gates of one device tell each other."""

    latencies: LatencyTable
    max_batch: int
    demand: Demand
    """Its images by rank, those that run included."""

    def late_s(self, rank: Rank, load: Load, now: float) -> float:
        """Return the seconds by which a load of that rank would make late who is let in here."""

    def put_off(self, rank: Rank, seconds: float) -> None:
        """Add to the plans of those who are passed by somebody of that rank."""


class Load(NamedTuple):
    """What a request asks for: a number of images of one model, to be decoded first.

    Of one that was let in only `longest_s` is given: all else counts in the demand already.
    """

    of: Gate | None = None
    images: int = 0
    decode_s: float = 0.0  # of all, on one thread
    longest_s: float = 0.0  # of the image that takes longest


NOTHING = Load()


class DeviceLoad:
    """A device's threads, its models' gates and what runs; makes plans of all that."""

    def __init__(self, runners: int = 1, decoding: Decoding | None = None) -> None:
        self.runners = runners
        """How many batches are computed at a time."""
        self.decoding = decoding
        self.decoders = 1
        """How many images are decoded at a time."""
        self.shares_threads = False
        """Whether the threads that decode run the batches too."""
        self.gates: list[Gate] = []
        self.running: Callable[[], Sequence[RunningBatch]] = tuple
        """Lists the batches under way."""

    @property
    def is_idle(self) -> bool:
        """Return whether there is nothing at all to be done."""
        for gate in self.gates:
            if gate.demand:
                return False
        return self.decoding is None or self.decoding.is_idle

    def planned_s(
        self, rank: Rank, of: Gate, now: float, more: Load = NOTHING, own: Load = NOTHING
    ) -> float:
        """Predict the seconds until what is of that rank is answered by a model.

        `own` is its load, and `more` what else is to come before it.
        """
        view = _View(self, of, more, own)
        if rank.priority is Priority.LOW:
            # Once it moves up, only what is due before it is before it.
            waits_s = max(0.0, rank.moves_up_at - now)
            moved_up = Rank(rank.deadline)
            return min(view.finish_s(rank, now), waits_s + view.finish_s(moved_up, math.inf))
        planned_s = view.finish_s(rank, now)
        while view.has_low():  # those that move up meanwhile may pass it, and so may others then
            later_s = view.finish_s(rank, now + planned_s)
            if later_s <= planned_s:
                break
            planned_s = later_s
        return planned_s

    def alone_s(self, load: Load) -> float:
        """Return the seconds by which a load puts off what comes after it."""
        if load.of is None:
            return 0.0
        infer_s, _ = load.of.latencies.plan(load.images, load.of.max_batch)
        return infer_s / self.runners + load.decode_s / self.decoders


class _View:
    """A device at one moment, seen by who waits for one of its models."""

    __slots__ = ("_device", "_more", "_of", "_own", "_rests", "_running")

    def __init__(self, device: DeviceLoad, of: Gate, more: Load, own: Load) -> None:
        self._device, self._of, self._more, self._own = device, of, more, own
        self._running = device.running()
        self._rests = [] if device.decoding is None else device.decoding.rests_s()

    def has_low(self) -> bool:
        """Return whether images of low priority wait or run."""
        return any(gate.demand.has_low for gate in self._device.gates)

    def finish_s(self, rank: Rank, until: float) -> float:
        """Return the seconds until the answer, if who moves up until then has done so."""
        device, own = self._device, self._own
        others_s = 0.0
        for gate in device.gates:
            if gate is not self._of:
                others_s += self._others_s(gate, rank, until)
        waiting = self._waiting(self._of, rank, until) + own.images
        # Idle runners share out what waits, so a batch may be smaller than the table's best.
        most = min(self._of.max_batch, -(-waiting // device.runners))
        own_s, last_s = self._of.latencies.plan(waiting, most)
        before_s = others_s + own_s - last_s
        batches = [batch.rest_s for batch in self._running]
        if device.decoding is None:
            return filled_s(batches, device.runners, before_s) + last_s
        decode_s = device.decoding.before_s(rank, until) + self._more.decode_s
        if not device.shares_threads:
            # Side by side: the slower of them decides, and one image is decoded before any runs.
            first_s = filled_s(self._rests, device.decoders, decode_s)
            first_s += own.decode_s / max(own.images, 1)
            all_s = filled_s(self._rests, device.decoders, decode_s + own.decode_s - own.longest_s)
            infer_s = filled_s(batches, device.runners, before_s) + last_s
            return max(all_s + own.longest_s, first_s + infer_s)
        # A batch may take the cores of several threads, and a decode those of several batches.
        threads = max(device.runners, device.decoders)
        per_batch, per_decode = threads / device.runners, threads / device.decoders
        work_s = per_batch * before_s + per_decode * (decode_s + own.decode_s - own.longest_s)
        work_s += (per_batch - 1) * sum(batches) + (per_decode - 1) * sum(self._rests)
        return filled_s([*batches, *self._rests], threads, work_s) + own.longest_s + last_s

    def _waiting(self, gate: Gate, rank: Rank, until: float) -> int:
        """Count a model's images that do not run yet and are served before that rank."""
        count = int(gate.demand.before(rank, until))
        if count:
            for batch in self._running:
                if batch.latencies is gate.latencies:
                    count -= len(who_passes(batch.tickets, rank, until))
        return max(0, count) + (self._more.images if self._more.of is gate else 0)

    def _others_s(self, gate: Gate, rank: Rank, until: float) -> float:
        """Return the seconds of another model's batches that are run before that rank."""
        waiting = self._waiting(gate, rank, until)
        if not waiting:
            return 0.0
        # Their last batch is filled up with what is due later.
        size = gate.latencies.best_size(gate.max_batch, math.inf)
        later = int(gate.demand.total) - waiting
        return gate.latencies.plan(waiting + max(0, min(-waiting % size, later)), gate.max_batch)[0]


def filled_s(rests_s: Sequence[float], threads: int, work_s: float) -> float:
    """Return the time at which threads are done with so much work that can be divided at will.

    Each is free after its rest of the work that it does now; those without one are free at once. Of
    more rests than threads, as where batches wait for a GPU, some are done after others.
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
