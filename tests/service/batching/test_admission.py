"""The gates: whole or not at all, and everything is given back."""

from __future__ import annotations

import asyncio
import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import Clock, simulated_time

from service.batching.admission import ByteGate, Device, ImageGate
from service.batching.jobs import JobQueue
from service.batching.latency import LatencyTable
from service.batching.runners import RunnerPool, RunningBatch
from service.batching.ticket import Priority
from service.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
    InflightBytesError,
    QueueFullError,
)


def planned(gate: ImageGate, images: int, priority: Priority = Priority.HIGH) -> float:
    return gate.check(images, math.inf, priority)


def test_a_request_is_admitted_whole_or_refused_whole():
    gate = ImageGate(limit=4)
    with gate.admit(3):
        with pytest.raises(QueueFullError, match="max_queue"), gate.admit(2):
            pass
        assert gate.admitted == 3
        with gate.admit(1):
            assert gate.admitted == 4
    assert gate.admitted == 0


def test_places_are_given_back_when_the_request_fails():
    gate = ImageGate(limit=1)
    with pytest.raises(RuntimeError), gate.admit(1):
        raise RuntimeError
    assert gate.admitted == 0


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 20))
def test_the_image_gate_never_holds_more_than_its_limit(requests, limit):
    gate = ImageGate(limit)
    with contextlib.ExitStack() as stack:
        expected = 0
        for images in requests:
            try:
                stack.enter_context(gate.admit(images))
                expected += images
            except QueueFullError:
                assert expected + images > limit
            assert gate.admitted == expected <= limit
    assert gate.admitted == 0


def test_a_deadline_that_the_measured_times_can_not_meet_is_refused():
    """Five images ahead and two new ones, of a second each, on one runner."""
    latencies = LatencyTable((size, float(size)) for size in (1, 2, 4, 8))
    gate = ImageGate(100, max_batch=8, latencies=latencies)
    with gate.admit(5):
        gate.check(2, 7.0, Priority.HIGH)
        with pytest.raises(DeadlineUnreachableError, match="7000 ms") as refused:
            gate.check(2, 4.9, Priority.HIGH)
        assert refused.value.retry_after_s == 3


def test_high_priority_passes_low_but_for_the_batch_that_may_have_begun():
    latencies = LatencyTable((size, float(size)) for size in (1, 2))
    gate = ImageGate(100, max_batch=2, latencies=latencies)
    with gate.admit(10, priority=Priority.LOW):
        assert planned(gate, 1, Priority.LOW) == 11
        assert planned(gate, 1) == 3


def test_the_batch_that_runs_counts_with_what_is_left_of_it():
    latencies = LatencyTable([(1, 1.0), (2, 2.0)])
    device = Device()
    device.running = lambda: [RunningBatch(latencies, 2, 0.5)]
    gate = ImageGate(100, max_batch=2, latencies=latencies, device=device)
    with gate.admit(2):
        assert planned(gate, 1) == 1.5


def test_runners_share_what_waits_and_other_models_of_the_device_count():
    table, other = LatencyTable([(1, 1.0)]), LatencyTable([(1, 3.0)])
    device = Device(runners=2)
    gate = ImageGate(100, latencies=table, device=device)
    neighbour = ImageGate(100, latencies=other, device=device)
    with gate.admit(4), neighbour.admit(2):
        assert planned(gate, 1) == (4 + 2 * 3) / 2 + 1


def test_under_load_an_image_needs_time_to_spare():
    """Let in with none, each would run at the last moment, in a batch of one."""
    latencies = LatencyTable((size, 1.0) for size in (1, 2, 4))
    gate = ImageGate(100, max_batch=4, latencies=latencies)
    with gate.admit(3):
        gate.check(1, 1.0, Priority.HIGH)
    with gate.admit(4):
        with pytest.raises(DeadlineUnreachableError):
            gate.check(1, 2.0, Priority.HIGH)
        gate.check(1, 4.0, Priority.HIGH)


@pytest.fixture
def clock():
    clock = Clock()
    with simulated_time(clock):
        yield clock


def learn(gate: ImageGate, clock: Clock, took_s: float, priority: Priority = Priority.HIGH) -> None:
    """Have a hundred requests answered, one after the other."""
    for _ in range(100):
        with gate.admit(1, priority=priority) as places:
            clock.now += took_s
            places.answered()


def needs(gate: ImageGate, seconds: float) -> None:
    """Assert that so much time is needed, and no more."""
    gate.check(1, seconds * 1.001, Priority.HIGH)
    with pytest.raises(DeadlineUnreachableError):
        gate.check(1, seconds * 0.999, Priority.HIGH)


def test_who_waits_longer_than_planned_makes_others_need_more_time(clock):
    latencies = LatencyTable([(1, 1.0), (8, 8.0)])
    gate = ImageGate(100, max_batch=8, latencies=latencies)
    learn(gate, clock, took_s=1.5)
    latencies.observe(1, 1.0)
    needs(gate, 1.0)  # when nobody is before it, a plan is the best guess
    with gate.admit(1):
        gate.check(1, 3.0, Priority.HIGH)
        with pytest.raises(DeadlineUnreachableError):
            gate.check(1, 2.6, Priority.HIGH)


def test_another_models_images_on_the_device_are_before_it_too(clock):
    device = Device()
    gate = ImageGate(100, latencies=LatencyTable([(1, 1.0)]), device=device)
    neighbour = ImageGate(100, latencies=LatencyTable([(1, 1.0)]), device=device)
    learn(gate, clock, took_s=2.0)
    with neighbour.admit(1):
        gate.check(1, 4.0, Priority.HIGH)
        with pytest.raises(DeadlineUnreachableError):
            gate.check(1, 2.5, Priority.HIGH)


def test_who_is_passed_by_others_says_nothing_of_their_time(clock):
    gate = ImageGate(100, max_batch=8, latencies=LatencyTable([(1, 1.0), (8, 8.0)]))
    learn(gate, clock, took_s=4.0, priority=Priority.LOW)
    with gate.admit(1):
        needs(gate, 2.0)


@pytest.mark.parametrize(
    "error", [RuntimeError(), DeadlineExceededError("late"), asyncio.CancelledError()]
)
def test_a_request_that_ends_in_an_error_tells_only_that_it_had_waited_too_long(clock, error):
    gate = ImageGate(100, max_batch=8, latencies=LatencyTable([(1, 1.0), (8, 8.0)]))
    learn(gate, clock, took_s=1.5)
    for took_s in (0.5, 3.0):
        with gate.admit(1):
            before_s = _least(gate)
        for _ in range(10):
            with contextlib.suppress(type(error)), gate.admit(1):
                clock.now += took_s
                raise error
        with gate.admit(1):
            after_s = _least(gate)
        assert (after_s > before_s) == (took_s == 3.0 and not isinstance(error, RuntimeError))


def _least(gate: ImageGate) -> float:
    """Find the least time that is enough, to a millisecond."""
    for ms in range(10000):
        with contextlib.suppress(DeadlineUnreachableError):
            gate.check(1, ms / 1000, Priority.HIGH)
            return ms / 1000
    raise AssertionError


def test_a_door_that_bad_times_have_closed_opens_again(clock):
    """Nothing is let in, so nothing is run that could tell of better times."""
    latencies = LatencyTable([(1, 0.01), (2, 0.02)])
    gate = ImageGate(100, max_batch=2, latencies=latencies)
    gate.check(1, 0.1, Priority.HIGH)
    for _ in range(50):
        with gate.admit(1) as places:
            latencies.observe(1, 0.5)
            clock.now += 0.5
            places.answered()
    for _ in range(5):
        with pytest.raises(DeadlineUnreachableError):
            gate.check(1, 0.1, Priority.HIGH)
        clock.now += 1
    clock.now += 10
    gate.check(1, 0.1, Priority.HIGH)


def test_a_door_that_slow_decoding_has_closed_opens_again(clock):
    """One large image was enough to close it, and what is refused is not decoded."""

    async def main() -> None:
        pool, jobs = RunnerPool(1), JobQueue(1)
        jobs.start(pool)
        device = Device(1, jobs)
        device.decoding_threads = 1
        gate = ImageGate(100, latencies=LatencyTable([(1, 0.01)]), device=device)

        def decode() -> None:
            clock.now += 2.0

        await jobs.call(decode, math.inf, Priority.HIGH)
        while pool.runs_of(jobs):  # noqa: ASYNC110 - a pool has no event for it
            await asyncio.sleep(0)
        for _ in range(5):
            with pytest.raises(DeadlineUnreachableError):
                gate.check(1, 0.5, Priority.HIGH)
            clock.now += 1
        clock.now += 10
        gate.check(1, 0.5, Priority.HIGH)
        jobs.close()
        assert pool.close(20)

    asyncio.run(main())


def test_a_door_that_was_closed_by_a_busy_start_opens_in_the_end(clock):
    """What was measured then is doubted while nobody is let in by it."""
    latencies = LatencyTable([(1, 1.0)])
    gate = ImageGate(100, latencies=latencies)
    for _ in range(5):
        with contextlib.suppress(DeadlineUnreachableError):
            gate.check(1, 0.2, Priority.HIGH)
        clock.now += 11
    gate.check(1, 0.2, Priority.HIGH)
    latencies.observe(1, 0.1)
    assert latencies.median_s(1) == 0.1


class Decoders:
    """Two images wait for decoders that take a second for each."""

    def predict_s(self, images: int) -> float:
        return 2.0 + images

    def work_s(self, images: int) -> float:
        return 2.0 + images

    is_stale = False

    def forget(self) -> None:
        raise AssertionError


def test_decoders_with_threads_of_their_own_work_beside_the_runners():
    gate = ImageGate(100, latencies=LatencyTable([(1, 4.0)]), device=Device(1, Decoders()))
    assert planned(gate, 1) == 2 + 4, "the first has to be decoded"
    assert planned(gate, 9) == 2 + 36
    quick = ImageGate(100, latencies=LatencyTable([(1, 0.1)]), device=Device(1, Decoders()))
    assert planned(quick, 9) == 2 + 9, "decoding is the slower"


def test_threads_that_do_both_have_the_sum_to_do():
    device = Device(2, Decoders())
    device.decoding_threads = 2
    gate = ImageGate(100, latencies=LatencyTable([(1, 4.0)]), device=device)
    assert planned(gate, 1) == 4 + 3 / 2


def test_the_byte_gate_refuses_what_would_pass_its_limit_and_holds_none_of_it():
    gate = ByteGate(limit=10)
    gate.take(7)
    with pytest.raises(InflightBytesError, match="max_inflight_bytes"):
        gate.take(4)
    gate.take(3)
    gate.give_back(10)
    assert gate.held == 0
