"""What a free thread does next: when a batch is run, how large it is, and whose work goes first.

`decide_batch` decides for one model, and `choose` among all available work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.batching.latency import LatencyTable
from service.batching.queue import TicketQueue
from service.batching.work_source import ConcurrencyLimit, Offer, Trial, WorkSource

_UNHURRIED = 4.0
"""A batch's images stop waiting for a fuller batch once they have waited for this many batch
times, or have less than that left: decoding other images could go on forever."""

_WAKE_UP_S = 0.05
"""Latest time before a deadline at which a batch stops waiting for more images, in seconds; earlier
for slow models. On a busy machine a thread may wake up late."""


@dataclass(slots=True)
class BatchLimits:
    """Limits on a model's batches."""

    max_batch: int
    max_delay_s: float = 0.0
    """How long an incomplete batch waits for more images."""


def decide_batch(
    waiting: TicketQueue,
    table: LatencyTable,
    limits: BatchLimits,
    concurrency: ConcurrencyLimit,
    now: float,
    idle: int,
    busy_until: Callable[[], float],
) -> Offer:
    """Decide on a model's next batch; `waiting` must have a ticket, the first one still viable.

    - When: at once, with two exceptions. While a serial device computes another batch, whose
      planned end `busy_until` returns, taking an incomplete batch early only makes it smaller (with
      8 clients and a fast GPU, that cost a quarter of the throughput). It is taken when the other
      batch ends or, if that runs far longer than planned, one batch time after the planned end. And
      with a `max_delay_s`, an incomplete batch waits until the oldest ticket has waited that long,
      unless a deadline is near.
    - How many: the size with the highest measured throughput that meets the most urgent deadline.
      Waiting images are divided among idle threads: two halves in parallel finish sooner. Now and
      then a trial of another size is offered as well.
    """
    count, at = len(waiting), 0.0
    is_behind = concurrency.serial and concurrency.running
    if is_behind and count < table.best_size(limits.max_batch, math.inf):
        at = busy_until() + table.median_s(count)
    if limits.max_delay_s and count < limits.max_batch:
        margin_s = max(_WAKE_UP_S, _UNHURRIED * table.p95_s(count))
        end_of_delay = waiting.oldest_submitted() + limits.max_delay_s
        at = max(at, min(end_of_delay, waiting.earliest_deadline() - margin_s))
    sort_key = waiting.sort_key(now)
    if at > now:
        return Offer(at, sort_key)
    most = 1
    if count > 1:
        most = min(count, limits.max_batch, -(-count // max(1, min(idle, concurrency.parts))))
    size, trial = 1, None
    if most > 1:
        left_s = waiting.earliest_deadline() - now
        size = table.best_size(most, left_s)
        if tried := table.trial_size(size, most, left_s):
            trial = Trial(tried, waiting.sort_key(now, tried))
    return Offer(at, sort_key, table.p95_s(size), size, trial)


def may_yield(
    waiting: TicketQueue, table: LatencyTable, limits: BatchLimits, for_s: float, now: float
) -> bool:
    """Return whether a model's batch would gain if other work ran for `for_s` seconds first.

    It does if it is incomplete and there is time. It does not yield to long work: a thread that
    decodes a huge image is gone for a while.
    """
    best = table.best_size(limits.max_batch, math.inf)
    if len(waiting) >= best:
        return False
    long_s = _UNHURRIED * table.p95_s(best)
    waited_s = now - waiting.oldest_submitted()
    left_s = waiting.sort_key(now)[1] - now
    return waited_s < long_s and for_s <= long_s < left_s - for_s


def choose(
    sources: Sequence[WorkSource], now: float, idle: int
) -> tuple[WorkSource, Offer] | float:
    """Return the most urgent work that can begin now.

    If there is none, return the seconds until there may be some, infinite if nothing is waiting.
    """
    ready: list[tuple[WorkSource, Offer]] = []
    first_at = math.inf
    for source in sources:
        if not source.concurrency.free:
            continue
        offer = source.offer(now, idle)
        if offer is None:
            continue
        if offer.at <= now:
            ready.append((source, offer))
        else:
            first_at = min(first_at, offer.at)
    if not ready:
        return first_at - now
    source, offer = ready[0] if len(ready) == 1 else _most_urgent(ready, now)
    if offer.trial is not None and _passes_nobody(offer.trial, source, sources, now):
        offer = offer._replace(size=offer.trial.size)
    elif offer.trial is not None:
        offer = offer._replace(trial=None)
    return source, offer


def _passes_nobody(
    trial: Trial, source: WorkSource, sources: Sequence[WorkSource], now: float
) -> bool:
    """Return whether no other source's work is more urgent than the trial's least urgent image.

    Such work may have no time to spare, as its admission did not allow for less urgent work.
    """
    offers = [other.offer(now, 1) for other in sources if other is not source]
    return all(offer is None or trial.last <= offer.sort_key for offer in offers)


def _most_urgent(ready: list[tuple[WorkSource, Offer]], now: float) -> tuple[WorkSource, Offer]:
    """Return the first by priority and deadline, or the work that it yields to.

    A batch that would gain from more images yields to work under another limit and of no lower
    priority, such as decoding those images.
    """
    first = min(ready, key=_sort_key)
    source, offer = first
    if not source.may_yield(0.0, now):
        return first
    peers = [entry for entry in ready if entry[1].sort_key[0] <= offer.sort_key[0]]
    if all(other.concurrency is source.concurrency for other, _ in peers):
        return first
    others = [entry for entry in peers if not entry[0].may_yield(0.0, now)]
    passing = min(others, key=_sort_key, default=first)
    return passing if source.may_yield(passing[1].lasts_s, now) else first


def _sort_key(entry: tuple[WorkSource, Offer]) -> tuple[int, float]:
    return entry[1].sort_key
