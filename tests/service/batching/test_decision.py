"""When a batch is run, how large it is, and whose work goes first: by tables of known times."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from service.batching.decision import BatchLimits, choose, decide_batch, may_yield
from service.batching.latency import LatencyTable
from service.batching.queue import TicketQueue
from service.batching.ticket import Priority, Ticket
from service.batching.work_source import ConcurrencyLimit, Offer, Trial

PIXELS = np.zeros((1, 1, 3), np.uint8)
HIGH, LOW = Priority.HIGH, Priority.LOW
ONE = ConcurrencyLimit(1)
ONE_PAYS = [(1, 1.0), (2, 2.0), (4, 4.0)]
FOUR_PAY = [(1, 1.0), (2, 1.2), (3, 1.3), (4, 1.4)]


class NeverGone:
    """A waiter that stays."""

    def cancelled(self) -> bool:
        return False


def queue(*deadlines: float, priority: Priority = HIGH, submitted: float = 0.0) -> TicketQueue:
    waiting = TicketQueue()
    for deadline in deadlines:
        waiting.push(Ticket(PIXELS, NeverGone(), submitted, deadline, priority))
    return waiting


def decide(
    waiting: TicketQueue,
    times: list[tuple[int, float]],
    *,
    max_batch: int = 4,
    max_delay_s: float = 0.0,
    concurrency: ConcurrencyLimit | None = None,
    now: float = 0.0,
    idle: int = 1,
    busy_until: float = 0.0,
) -> Offer:
    return decide_batch(
        waiting,
        LatencyTable(times),
        BatchLimits(max_batch, max_delay_s),
        concurrency or ConcurrencyLimit(1),
        now,
        idle,
        lambda: busy_until,
    )


def test_the_table_says_how_many_run_together():
    """Here a batch of 4 takes hardly longer than one image, and one of 8 three times as long."""
    times = [(1, 1.0), (2, 1.05), (4, 1.1), (8, 3.0)]
    assert decide(queue(*[100.0] * 8), times, max_batch=8).size == 4


def test_no_batch_is_over_the_limit():
    assert decide(queue(*[100.0] * 9), FOUR_PAY, max_batch=3).size == 3


def test_a_batch_stays_small_for_the_earliest_deadline_in_the_queue():
    """Also when that one is of low priority and would come last."""
    waiting = queue(100.0, 100.0)
    waiting.push(Ticket(PIXELS, NeverGone(), 0.0, 1.25, LOW))
    assert decide(waiting, FOUR_PAY).size == 2


def test_what_waits_is_shared_out_among_idle_threads():
    """Unless batches are computed one after the other: then two halves take longer than one."""
    waiting = queue(*[100.0] * 4)
    assert decide(waiting, FOUR_PAY, concurrency=ConcurrencyLimit(2), idle=2).size == 2
    assert decide(waiting, FOUR_PAY, concurrency=ConcurrencyLimit(2), idle=1).size == 4
    serial = ConcurrencyLimit(2, serial=True)
    assert decide(waiting, FOUR_PAY, concurrency=serial, idle=2).size == 4


def test_beside_a_serial_batch_an_incomplete_one_waits_for_its_end():
    busy = ConcurrencyLimit(2, serial=True, running=1)
    assert decide(queue(100.0), FOUR_PAY, concurrency=busy, busy_until=5.0).at == 5.0 + 1.0
    full = decide(queue(*[100.0] * 4), FOUR_PAY, concurrency=busy, busy_until=5.0)
    assert (full.at, full.size) == (0.0, 4)


def test_a_delay_ends_for_the_oldest_and_before_a_deadline():
    late = decide(queue(100.0, submitted=1.0), FOUR_PAY, max_delay_s=2.0, now=1.0)
    assert late.at == 3.0
    near = decide(queue(10.0), FOUR_PAY, max_delay_s=50.0)
    assert near.at == pytest.approx(10.0 - 4 * 1.0)
    assert decide(queue(*[100.0] * 4), FOUR_PAY, max_delay_s=2.0).at == 0.0


def test_an_offer_tells_how_urgent_it_is_and_how_long_it_lasts():
    offer = decide(queue(50.0, 40.0), FOUR_PAY)
    assert offer.sort_key == (HIGH, 40.0)
    assert offer.lasts_s == pytest.approx(1.2)


def test_one_batch_in_sixteen_may_be_a_trial_and_tells_whom_it_takes():
    table = LatencyTable(FOUR_PAY)
    waiting = queue(30.0, 10.0, 20.0)
    waiting.push(Ticket(PIXELS, NeverGone(), 0.0, 25.0, LOW))
    for _ in range(15):
        assert decide_batch(waiting, table, BatchLimits(2), ONE, 0.0, 1, float).trial is None
        table.note_choice(is_trial=False)
    offer = decide_batch(waiting, table, BatchLimits(4), ONE, 0.0, 1, float)
    assert offer.size == 4
    assert offer.trial == Trial(2, (HIGH, 20.0))
    small = LatencyTable([(1, 1.0), (2, 2.0), (4, 4.0)])
    for _ in range(15):
        small.note_choice(is_trial=False)
    offer = decide_batch(waiting, small, BatchLimits(4), ONE, 0.0, 1, float)
    assert (offer.size, offer.trial) == (1, Trial(2, (HIGH, 20.0)))


def test_a_batch_that_gains_yields_while_there_is_time():
    limits, table = BatchLimits(4), LatencyTable(FOUR_PAY)
    assert may_yield(queue(100.0), table, limits, 1.0, 0.0)
    assert not may_yield(queue(100.0), table, limits, 6.0, 0.0), "that takes too long"
    assert not may_yield(queue(6.0), table, limits, 1.0, 0.0), "its deadline is near"
    assert not may_yield(queue(100.0), table, limits, 1.0, 6.0), "it has waited long"
    assert not may_yield(queue(*[100.0] * 4), table, limits, 1.0, 0.0), "it is full"
    assert not may_yield(queue(100.0), LatencyTable(ONE_PAYS), limits, 1.0, 0.0), "it needs no more"


class Source:
    """Work that is offered as the test says."""

    latencies = None

    def __init__(self, offer: Offer | None, *, limit: int = 1, yields_s: float = -1.0) -> None:
        self.concurrency = ConcurrencyLimit(limit)
        self._offer, self._yields_s = offer, yields_s

    def offer(self, now: float, idle: int) -> Offer | None:
        return self._offer

    def may_yield(self, for_s: float, now: float) -> bool:
        return for_s <= self._yields_s


def source(offer: Offer | None, *, limit: int = 1, yields_s: float = -1.0) -> Any:
    return Source(offer, limit=limit, yields_s=yields_s)


def test_the_most_urgent_of_what_is_ready_goes_first():
    first, last = source(Offer(0.0, (HIGH, 1.0))), source(Offer(0.0, (HIGH, 2.0)))
    later, none = source(Offer(9.0, (HIGH, 0.5))), source(None)
    assert choose([none, last, later, first], 5.0, 1) == (first, first._offer)
    full = source(Offer(0.0, (HIGH, 0.0)), limit=0)
    assert choose([full, last], 5.0, 1) == (last, last._offer)


def test_without_work_it_is_told_when_there_may_be_some():
    assert (
        choose([source(None), *(source(Offer(at, (HIGH, 1.0))) for at in (9.0, 7.0))], 5.0, 1)
        == 2.0
    )
    assert choose([source(None)], 5.0, 1) == math.inf


def test_a_trial_is_made_unless_it_passes_more_urgent_work():
    """What is less urgent was not counted before that work, which may have no time to spare."""
    trial = Trial(4, (HIGH, 5.0))
    batch = source(Offer(0.0, (HIGH, 1.0), size=2, trial=trial))
    chosen = choose([batch, source(None)], 0.0, 1)
    assert not isinstance(chosen, float)
    assert (chosen[1].size, chosen[1].trial) == (4, trial)
    for other, size in (((HIGH, 4.0), 2), ((HIGH, 6.0), 4), ((LOW, 4.0), 4)):
        for at, limit in ((0.0, 1), (9.0, 1), (0.0, 0)):
            waiting = source(Offer(at, other), limit=limit)
            chosen = choose([waiting, batch], 0.0, 1)
            assert not isinstance(chosen, float)
            assert (chosen[0], chosen[1].size) == (batch, size)
            assert (chosen[1].trial is None) == (size == 2)


def test_a_batch_yields_to_what_is_of_another_limit_and_no_lower_priority():
    batch = source(Offer(0.0, (HIGH, 1.0)), yields_s=2.0)
    decode = source(Offer(0.0, (HIGH, 9.0), lasts_s=1.0))
    assert choose([batch, decode], 0.0, 1) == (decode, decode._offer)
    huge = source(Offer(0.0, (HIGH, 9.0), lasts_s=3.0))
    assert choose([batch, huge], 0.0, 1) == (batch, batch._offer)
    low = source(Offer(0.0, (LOW, 9.0), lasts_s=1.0))
    assert choose([batch, low], 0.0, 1) == (batch, batch._offer)
    other = source(Offer(0.0, (HIGH, 9.0), lasts_s=1.0))
    other.concurrency = batch.concurrency
    assert choose([batch, other], 0.0, 1) == (batch, batch._offer)
