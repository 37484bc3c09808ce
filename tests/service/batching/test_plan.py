"""When a request would be answered: what is before it, divided among the threads."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from fixed_table import FixedTable
from hypothesis import given
from hypothesis import strategies as st

from service.batching.admission import ImageGate
from service.batching.costs import Work
from service.batching.demand import Demand, Rank
from service.batching.plan import DeviceLoad, filled_s
from service.batching.schedule import RunningBatch
from service.batching.ticket import Priority

HIGH, LOW = Priority.HIGH, Priority.LOW
times = st.floats(0, 10)


@given(st.lists(times, max_size=6), st.integers(1, 6), times)
def test_threads_are_filled_evenly(rests_s, threads, work_s):
    """Up to that time they have done the work, and none was idle before."""
    level_s = filled_s(rests_s, threads, work_s)
    if len(rests_s) > threads:
        assert level_s * threads == pytest.approx(work_s + sum(rests_s))
        return
    free = rests_s + [0.0] * (threads - len(rests_s))
    done_s = sum(max(0.0, level_s - rest_s) for rest_s in free)
    assert done_s == pytest.approx(work_s, abs=1e-9)
    assert level_s >= min(free)


@dataclass
class Decoders:
    """Jobs that wait and are being done; an image takes as many seconds as it has pixels."""

    waiting: dict[float, float] = field(default_factory=dict)  # seconds by deadline
    rests: list[float] = field(default_factory=list)

    is_idle = False

    def expect_s(self, work: Work) -> float:
        return float(work.pixels)

    def rests_s(self) -> list[float]:
        return self.rests

    def before_s(self, rank: Rank, until: float) -> float:
        return sum(seconds for due, seconds in self.waiting.items() if due <= rank.deadline)

    def longest_s(self, first: float, last: float) -> float:
        return max((s for due, s in self.waiting.items() if first <= due <= last), default=0.0)


def planned(
    decoders: Decoders, infer_s: float, pixels: list[int], *, threads: int = 2, shared: bool = True
) -> float:
    device = DeviceLoad(threads if shared else 1, decoders)
    device.decoders, device.shares_threads = threads, shared
    gate = ImageGate(100, max_batch=1, latencies=FixedTable([infer_s]), device=device)
    works = [Work("png", count) for count in pixels]
    return gate.check(len(works), math.inf, HIGH, works)


def test_an_image_is_decoded_and_then_run():
    assert planned(Decoders(), 0.5, [3]) == 3.5
    assert planned(Decoders(), 0.5, [3], shared=False) == 3.5


def test_threads_that_do_both_have_all_of_it_to_do():
    decoders = Decoders({5.0: 4.0})
    assert planned(decoders, 0.5, [3]) == 4 / 2 + 3.5
    assert planned(decoders, 0.5, [3, 1, 1]) == (4 + 2 + 2 * 0.5) / 2 + 3.5


def test_a_job_that_goes_on_for_long_leaves_the_other_threads_to_others():
    decoders = Decoders(rests=[60.0])
    assert planned(decoders, 0.5, [1]) == 1.5
    assert planned(decoders, 0.5, [1], threads=1) == 61.5


def test_decoders_with_threads_of_their_own_work_beside_the_runners():
    decoders = Decoders({5.0: 4.0})
    assert planned(decoders, 9.0, [3], shared=False) == 4 / 2 + 3 + 9
    assert planned(decoders, 0.01, [3] * 8, shared=False) == (4 + 21) / 2 + 3, "the slower decides"


def test_batches_that_wait_for_a_gpu_are_run_one_after_the_other():
    device = DeviceLoad(1)
    gate = ImageGate(100, latencies=FixedTable([1.0]), device=device)
    ranks = [Rank(5.0)]
    device.running = lambda: [
        RunningBatch(gate.latencies, ranks, 0.25),
        RunningBatch(gate.latencies, ranks, 1.0),
    ]
    with gate.admit(2):
        assert gate.check(1, math.inf, HIGH) == 0.25 + 1.0 + 1.0


ranks = st.builds(
    lambda deadline, priority, half: Rank(deadline, priority, half * deadline),
    st.floats(0, 100),
    st.sampled_from(Priority),
    st.floats(0, 1),
)


@given(st.lists(st.tuples(ranks, st.integers(1, 9)), max_size=30), ranks, st.floats(0, 100))
def test_what_is_before_whom_is_what_is_due_no_later_by_priority(pieces, rank, until):
    demand = Demand()
    for other, amount in pieces:
        demand.add(other, amount)
    for other, amount in pieces[::2]:
        demand.remove(other, amount)
    left = pieces[1::2]

    def is_before(other: Rank) -> bool:
        high = other.priority is HIGH or other.moves_up_at <= until
        due = other.deadline <= rank.deadline
        return (high and due) if rank.priority is HIGH else (high or due)

    highs = [other for other, _ in left if other.priority is HIGH]
    # High priority is before low whatever its deadline; so is low that has moved up.
    assert demand.before(rank, until) == sum(n for other, n in left if is_before(other))
    assert demand.total == sum(amount for _, amount in left)
    assert bool(demand) == bool(left)
    assert demand.later(50) == sorted(o.deadline for o in highs if o.deadline > 50)
    largest = [n for o, n in left if o.priority is HIGH and 20 <= o.deadline <= 60]
    assert demand.largest(20, 60) == max(largest, default=0)
