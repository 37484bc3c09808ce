"""The gates: whole or not at all, and everything is given back."""

from __future__ import annotations

import asyncio
import contextlib
import math

import pytest
from clock import Clock, simulated_time
from hypothesis import given
from hypothesis import strategies as st

from service.batching import admission
from service.batching.admission import ByteGate, ImageGate, Reservation
from service.batching.latency import LatencyTable
from service.batching.plan import DeviceLoad
from service.batching.schedule import RunningBatch
from service.batching.ticket import Priority
from service.errors import (
    DeadlineUnreachableError,
    InflightBytesError,
    QueueFullError,
)


@pytest.fixture(autouse=True)
def clock():
    clock = Clock()
    with simulated_time(clock):
        yield clock


def soon(seconds: float) -> float:
    """Give the time of the simulated clock in so many seconds."""
    return admission.time.perf_counter() + seconds  # type: ignore[attr-defined]  # the clock's


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
    with gate.admit(5, soon(6)):
        gate.check(2, soon(7.0), Priority.HIGH)
        with pytest.raises(DeadlineUnreachableError, match="7000 ms") as refused:
            gate.check(2, soon(6.1), Priority.HIGH)
        assert refused.value.retry_after_s == 1


def test_where_nothing_is_to_be_done_a_request_is_let_in_whatever_the_plan_says():
    """It costs nobody anything, and tells whether the plan was right."""
    device = DeviceLoad()
    gate = ImageGate(100, latencies=LatencyTable([(1, 5.0)]), device=device)
    neighbour = ImageGate(100, latencies=LatencyTable([(1, 0.1)]), device=device)
    assert gate.admit(3, soon(0.1)).is_tried
    assert not gate.admit(3, soon(16)).is_tried
    with neighbour.admit(1), pytest.raises(DeadlineUnreachableError):
        gate.check(1, soon(0.1), Priority.HIGH)


def test_what_is_due_later_does_not_count_however_much_it_is():
    gate = ImageGate(1000, latencies=LatencyTable([(1, 1.0)]))
    with gate.admit(500, soon(86_400)):
        needs(gate, 1.0)
        assert gate.check(1, soon(86_400.1), Priority.HIGH) == 501


def test_who_would_make_late_who_was_let_in_before_is_refused():
    gate = ImageGate(100, max_batch=99, latencies=LatencyTable([(1, 1.0)]))
    with gate.admit(4, soon(4.5)), gate.admit(1, soon(20)):
        with pytest.raises(DeadlineUnreachableError, match="accepted earlier") as refused:
            gate.check(2, soon(4), Priority.HIGH)
        assert refused.value.retry_after_s == 2
        gate.check(2, soon(8), Priority.HIGH)


def test_who_is_late_in_any_case_is_no_reason_to_refuse_others(clock):
    gate = ImageGate(100, max_batch=99, latencies=LatencyTable([(1, 1.0)]))
    with gate.admit(4, soon(4.5)), gate.admit(3, soon(20)):
        clock.now += 2  # and nothing was run
        gate.check(1, soon(2), Priority.HIGH)
        with pytest.raises(DeadlineUnreachableError, match="accepted earlier"):
            gate.check(12, soon(17), Priority.HIGH)


def test_where_all_are_late_few_plans_are_made(monkeypatch):
    """It happens on the event loop, and just when there is most to do."""
    device = DeviceLoad()
    gate = ImageGate(2000, max_batch=1, latencies=LatencyTable([(1, 1.0)]), device=device)
    neighbour = ImageGate(100, latencies=LatencyTable([(1, 0.01)]), device=device)
    with contextlib.ExitStack() as admitted:
        for number in range(1000):
            admitted.enter_context(gate.admit(1, soon(2 * number + 5)))
        gate.latencies = LatencyTable([(1, 10.0)])  # the device got slow
        plans, plan = [], DeviceLoad.planned_s

        def counted(*args, **options):
            plans.append(args)
            return plan(*args, **options)

        monkeypatch.setattr(DeviceLoad, "planned_s", counted)
        neighbour.check(1, soon(1), Priority.HIGH)
    assert 0 < len(plans) < 60


def test_what_is_done_of_a_request_does_not_make_the_rest_look_late(clock):
    """It would not be kept from being late, if it seemed to be so in any case."""
    gate = ImageGate(limit=99, latencies=LatencyTable([(1, 1.0)]))
    with gate.admit(5, soon(5.5)) as first:
        for _ in range(3):
            clock.now += 1
            first.image_done()
        assert planned(gate, 1) == 3.0, "the two that are left, and its own"
        with pytest.raises(DeadlineUnreachableError, match="accepted earlier"):
            gate.admit(1, soon(1.5))
        with gate.admit(1, soon(9.0)):
            pass
        assert gate.admitted == 5, "its places are kept until the end"
    assert gate.admitted == 0
    assert not gate.demand
    first.image_done()
    assert not gate.demand, "what ends afterwards is counted out already"


def test_another_models_promises_are_kept_too():
    device = DeviceLoad()
    gate = ImageGate(100, max_batch=99, latencies=LatencyTable([(1, 1.0)]), device=device)
    neighbour = ImageGate(100, max_batch=99, latencies=LatencyTable([(1, 2.0)]), device=device)
    with neighbour.admit(2, soon(5.5)):
        gate.check(1, soon(3), Priority.HIGH)
        with pytest.raises(DeadlineUnreachableError, match="accepted earlier"):
            gate.check(2, soon(3), Priority.HIGH)


def test_all_who_are_due_later_are_looked_at():
    """Each has half a second to spare, but for one that has a quarter."""
    for tight in range(16):
        device = DeviceLoad()
        gate = ImageGate(100, max_batch=99, latencies=LatencyTable([(1, 1.0)]), device=device)
        more = ImageGate(100, latencies=LatencyTable([(1, 0.3)]), device=device)
        with contextlib.ExitStack() as admitted:
            for number in range(16):
                spare_s = 0.25 if number == tight else 0.5
                admitted.enter_context(gate.admit(1, soon(number + 1 + spare_s)))
            with pytest.raises(DeadlineUnreachableError, match="accepted earlier"):
                more.check(1, soon(1), Priority.HIGH)
            more.latencies = LatencyTable([(1, 0.2)])
            more.check(1, soon(1), Priority.HIGH)


def test_high_priority_passes_low_but_for_the_batch_that_runs():
    latencies = LatencyTable((size, float(size)) for size in (1, 2))
    device = DeviceLoad()
    gate = ImageGate(100, max_batch=2, latencies=latencies, device=device)
    with gate.admit(10, priority=Priority.LOW) as reservation:
        assert planned(gate, 1, Priority.LOW) == 11
        assert planned(gate, 1) == 1
        device.running = lambda: [RunningBatch(latencies, [reservation.rank] * 2, 2.0)]
        assert planned(gate, 1, Priority.LOW) == 11
        assert planned(gate, 1) == 3


def test_low_priority_that_has_moved_up_or_will_have_counts(clock):
    """At half of its time, and then if it is due earlier."""
    gate = ImageGate(100, latencies=LatencyTable([(1, 1.0)]))
    with gate.admit(10, soon(100), Priority.LOW), gate.admit(60, soon(200)):
        assert gate.check(1, soon(300), Priority.HIGH) == 71
        assert gate.check(1, soon(199), Priority.HIGH) == 1
        clock.now += 60
        assert gate.check(1, soon(139), Priority.HIGH) == 11
        assert gate.check(1, soon(30), Priority.HIGH) == 1


def test_low_priority_waits_for_no_more_than_half_of_its_time():
    """Then only what is due earlier is before it."""
    gate = ImageGate(1000, latencies=LatencyTable([(1, 1.0)]))
    with gate.admit(500, soon(86_400)), gate.admit(2, soon(9)):
        assert gate.check(1, soon(10), Priority.LOW) == 5 + 3
        with pytest.raises(DeadlineUnreachableError):
            gate.check(1, soon(5), Priority.LOW)


def test_the_patient_may_fill_half_of_the_places():
    """Those who have more time than is usual must not leave none to others."""
    gate = ImageGate(8, patience_s=30)
    with gate.admit(1, soon(30)), gate.admit(4, soon(31)):
        with pytest.raises(QueueFullError, match=r"half of .?max_queue"):
            gate.check(1, soon(40), Priority.HIGH)
        with gate.admit(3, soon(10)), pytest.raises(QueueFullError):
            gate.check(1, soon(10), Priority.HIGH)
    gate.check(8, soon(86_400), Priority.HIGH)


def test_the_batch_that_runs_counts_with_what_is_left_of_it():
    latencies = LatencyTable([(1, 1.0), (2, 2.0)])
    device = DeviceLoad()
    gate = ImageGate(100, max_batch=2, latencies=latencies, device=device)
    with gate.admit(2, soon(9)) as reservation:
        device.running = lambda: [RunningBatch(latencies, [reservation.rank] * 2, 0.5)]
        assert planned(gate, 1) == 1.5
        assert gate.check(1, soon(2), Priority.HIGH) == 1.5, "though they are due later"


def test_runners_share_what_waits_and_other_models_of_the_device_count():
    table, other = LatencyTable([(1, 1.0)]), LatencyTable([(1, 3.0)])
    device = DeviceLoad(runners=2)
    gate = ImageGate(100, latencies=table, device=device)
    neighbour = ImageGate(100, latencies=other, device=device)
    with gate.admit(4), neighbour.admit(2):
        assert planned(gate, 1) == (4 + 2 * 3) / 2 + 1


def test_under_load_an_image_needs_time_to_spare():
    """Let in with none, each would run at the last moment, in a batch of one."""
    latencies = LatencyTable((size, 1.0) for size in (1, 2, 4))
    gate = ImageGate(100, max_batch=4, latencies=latencies)
    with gate.admit(3, soon(1)):
        gate.check(1, soon(1.0), Priority.HIGH)
    with gate.admit(4, soon(1)):
        with pytest.raises(DeadlineUnreachableError):
            gate.check(1, soon(2.0), Priority.HIGH)
        gate.check(1, soon(4.0), Priority.HIGH)


def learn(gate: ImageGate, clock: Clock, took_s: float, priority: Priority = Priority.HIGH) -> None:
    """Have a hundred requests answered, one after the other."""
    for _ in range(100):
        with gate.admit(1, priority=priority) as reservation:
            clock.now += took_s
            reservation.answered()


def needs(gate: ImageGate, seconds: float) -> None:
    """Assert that so much time is needed, and no more."""
    gate.check(1, soon(seconds * 1.001), Priority.HIGH)
    with pytest.raises(DeadlineUnreachableError):
        gate.check(1, soon(seconds * 0.999), Priority.HIGH)


def test_who_waits_longer_than_planned_makes_others_need_more_time(clock):
    latencies = LatencyTable([(1, 1.0), (8, 8.0)])
    gate = ImageGate(100, max_batch=8, latencies=latencies)
    learn(gate, clock, took_s=1.5)
    with gate.admit(1, soon(1)):
        gate.check(1, soon(3.0), Priority.HIGH)
        with pytest.raises(DeadlineUnreachableError):
            gate.check(1, soon(2.6), Priority.HIGH)


def test_another_models_images_on_the_device_are_before_it_too(clock):
    device = DeviceLoad()
    gate = ImageGate(100, latencies=LatencyTable([(1, 1.0)]), device=device)
    neighbour = ImageGate(100, latencies=LatencyTable([(1, 1.0)]), device=device)
    learn(gate, clock, took_s=2.0)
    with neighbour.admit(1, soon(1)):
        gate.check(1, soon(4.0), Priority.HIGH)
        with pytest.raises(DeadlineUnreachableError):
            gate.check(1, soon(2.5), Priority.HIGH)


def test_another_models_last_batch_is_filled_with_what_is_due_later():
    device = DeviceLoad()
    gate = ImageGate(100, latencies=LatencyTable([(1, 1.0)]), device=device)
    table = LatencyTable([(1, 1.0), (4, 2.0)])
    neighbour = ImageGate(100, max_batch=4, latencies=table, device=device)
    with neighbour.admit(1, soon(1)), neighbour.admit(9, soon(99)):
        assert gate.check(1, soon(5), Priority.HIGH) == 2 + 1


def test_who_is_passed_by_low_priority_says_nothing_of_high(clock):
    gate = ImageGate(100, max_batch=8, latencies=LatencyTable([(1, 1.0), (8, 8.0)]))
    learn(gate, clock, took_s=4.0, priority=Priority.LOW)
    with gate.admit(1, soon(1)):
        needs(gate, 2.0)


def test_to_be_passed_by_those_who_are_due_earlier_is_no_fault_of_a_plan(clock):
    """Answers after a day's wait behind others must not close the door to those."""
    gate = ImageGate(100, max_batch=99, latencies=LatencyTable([(1, 1.0)]))
    for _ in range(100):
        with gate.admit(1, soon(1000)) as patient:
            with gate.admit(3, soon(5)):
                clock.now += 3
            clock.now += 1
            patient.answered()
    with gate.admit(1, soon(1)):
        needs(gate, 2.0)


@pytest.mark.parametrize("error", [RuntimeError(), asyncio.CancelledError()])
def test_a_request_that_ends_in_an_error_tells_only_that_it_had_waited_too_long(clock, error):
    gate = ImageGate(100, max_batch=8, latencies=LatencyTable([(1, 1.0), (8, 8.0)]))
    learn(gate, clock, took_s=1.5)
    for took_s in (0.5, 3.0):
        with gate.admit(1, soon(1)):
            before_s = _least(gate)
        for _ in range(10):
            with contextlib.suppress(type(error)), gate.admit(1):
                clock.now += took_s
                raise error
        with gate.admit(1, soon(1)):
            after_s = _least(gate)
        assert (after_s > before_s) == (took_s == 3.0 and not isinstance(error, RuntimeError))


def _least(gate: ImageGate) -> float:
    """Find the least time that is enough, to a millisecond."""
    for ms in range(10000):
        with contextlib.suppress(DeadlineUnreachableError):
            gate.check(1, soon(ms / 1000), Priority.HIGH)
            return ms / 1000
    raise AssertionError


def busy_neighbour(device: DeviceLoad) -> Reservation:
    """Keep a device from being idle, with work that is due after all else."""
    return ImageGate(9, latencies=LatencyTable([(1, 1e-9)]), device=device).admit(1)


def test_a_door_that_bad_times_have_closed_opens_again(clock):
    """Nothing is let in, so nothing is run that could tell of better times."""
    latencies, device = LatencyTable([(1, 0.01), (2, 0.02)]), DeviceLoad()
    gate = ImageGate(100, max_batch=2, latencies=latencies, device=device)
    with busy_neighbour(device):
        gate.check(1, soon(0.1), Priority.HIGH)
        for _ in range(50):
            with gate.admit(1) as reservation:
                latencies.observe(1, 0.5)
                clock.now += 0.5
                reservation.answered()
        for _ in range(5):
            with pytest.raises(DeadlineUnreachableError):
                gate.check(1, soon(0.1), Priority.HIGH)
            clock.now += 1
        clock.now += 10
        gate.check(1, soon(0.1), Priority.HIGH)


def test_a_door_that_was_closed_by_a_busy_start_opens_in_the_end(clock):
    """What was measured then is doubted while nobody is let in by it."""
    latencies, device = LatencyTable([(1, 1.0)]), DeviceLoad()
    gate = ImageGate(100, latencies=latencies, device=device)
    with busy_neighbour(device):
        for _ in range(5):
            with contextlib.suppress(DeadlineUnreachableError):
                gate.check(1, soon(0.2), Priority.HIGH)
            clock.now += 11
        gate.check(1, soon(0.2), Priority.HIGH)
        latencies.observe(1, 0.1)
        assert latencies.median_s(1) == 0.1


def test_the_byte_gate_refuses_what_would_pass_its_limit_and_holds_none_of_it():
    gate = ByteGate(limit=10)
    gate.take(7)
    with pytest.raises(InflightBytesError, match="max_inflight_bytes"):
        gate.take(4)
    gate.take(3)
    gate.give_back(10)
    assert gate.held == 0
