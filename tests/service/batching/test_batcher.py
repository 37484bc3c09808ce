"""The batcher, with an engine that the test holds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from clock import Sleepers
from engines import HeldEngine, first_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from stage import stage

from service.batching.batcher import Batcher
from service.batching.decode_pool import DecodePool
from service.batching.latency import LatencyTable
from service.batching.ticket import Priority, Ticket, TicketResult
from service.batching.workers import WorkerPool
from service.errors import (
    DeviceLostError,
    InferenceError,
    ModelUnavailableError,
    SessionFailedError,
)
from service.metrics import Metrics


def ticket(value: int) -> Ticket:
    pixels = np.full((2, 2, 3), value, np.uint8)
    now = time.perf_counter()
    return Ticket(pixels, asyncio.get_running_loop().create_future(), now, now + 60)


def one_time_for_all_sizes(max_batch: int) -> LatencyTable:
    """A table that makes full batches the best plan, whatever times the test's gate makes."""
    return LatencyTable((size, 1e-3) for size in range(1, max_batch + 1) for _ in range(32))


async def entered(engine: HeldEngine) -> None:
    """Wait until the engine has begun another batch."""
    assert await asyncio.to_thread(engine.entered.acquire, timeout=60)


def with_batcher(
    use: Callable[[Batcher, HeldEngine], Awaitable[None]],
    *,
    max_batch: int = 4,
    runners: int = 1,
    **options,
) -> Metrics:
    """Run `use` on an event loop with a batcher that is closed afterwards."""
    metrics = Metrics()

    async def main() -> None:
        engine = HeldEngine()
        options.setdefault("latencies", one_time_for_all_sizes(max_batch))
        pool = WorkerPool(runners, changed=Sleepers())
        batcher = Batcher(engine, metrics.for_model("m", 1), pool, max_batch=max_batch, **options)
        try:
            async with asyncio.timeout(60):
                await use(batcher, engine)
        finally:
            engine.open.set()
            assert await asyncio.to_thread(batcher.close, 60)
            assert await asyncio.to_thread(pool.close, 60)

    asyncio.run(main())
    return metrics


def submit(batcher: Batcher, *values: int) -> list[Any]:
    tickets = [ticket(value) for value in values]
    for one in tickets:
        batcher.submit(one)
    return [one.waiter for one in tickets]


def test_an_idle_runner_takes_a_lone_ticket_at_once():
    """No window to wait out: the batch of one is run although more would fit."""

    async def use(batcher, engine):
        (future,) = submit(batcher, 7)
        answer = await future
        assert answer.probabilities.tolist() == [7]
        assert answer.batch_size == 1

    with_batcher(use)


def test_what_arrives_while_the_runner_is_busy_runs_together_oldest_first():
    """Load makes the batches, and none is over `max_batch`."""

    async def use(batcher, engine):
        engine.open.clear()
        first = submit(batcher, 1)
        await entered(engine)
        rest = submit(batcher, 2, 3, 4, 5, 6, 7)
        engine.open.set()
        answers = await asyncio.gather(*first, *rest)
        assert engine.batches == [[1], [2, 3, 4, 5], [6, 7]]
        assert [answer.probabilities[0] for answer in answers] == [1, 2, 3, 4, 5, 6, 7]
        assert [answer.batch_size for answer in answers] == [1, 4, 4, 4, 4, 2, 2]

    with_batcher(use)


class Slot:
    """A waiter that is no future: what a ticket of another process has."""

    def __init__(self, number: int) -> None:
        self.number, self.gone = number, False

    def cancelled(self) -> bool:
        return self.gone


def test_a_ticket_says_how_it_is_completed_and_a_batch_does_so_in_one_call():
    """So that results may go to another process; a waiter that is gone costs no inference."""

    async def use(batcher, engine):
        engine.open.clear()
        first = submit(batcher, 1)
        await entered(engine)
        done, calls, slots = threading.Event(), [], [Slot(number) for number in range(3)]

        def complete(outcomes) -> None:
            calls.append(
                [(slot.number, result.probabilities.tolist()) for slot, result in outcomes]
            )
            done.set()

        for slot in slots:
            batcher.submit(replace(ticket(10 + slot.number), waiter=slot, complete=complete))
        slots[1].gone = True
        engine.open.set()
        await asyncio.gather(*first)
        assert await asyncio.to_thread(done.wait, 60)
        assert calls == [[(0, [10]), (2, [12])]]

    with_batcher(use)


def test_max_delay_lets_an_incomplete_batch_wait_for_more():
    """With a delay, a batch forms at an idle runner; it runs as soon as it is full."""

    async def use(batcher, engine):
        await asyncio.gather(*submit(batcher, 1, 2, 3, 4))
        assert engine.batches == [[1, 2, 3, 4]]

    with_batcher(use, max_delay_s=60)


@pytest.mark.parametrize("batch_s", [1e-4, 1e-3, 0.02, 0.1])
def test_max_delay_does_not_make_an_image_late(batch_s):
    """The batch runs before its deadline, full or not, and with time for a late wake-up."""
    with stage([[batch_s] * 4], threads=1, max_batch=4, max_delay_s=100) as scene:
        (image,) = scene.submit(0, time_s=1.0)
        margin_s = max(0.05, 4 * batch_s)
        scene.advance(1.0 - margin_s - 0.01)
        assert scene.offer_at(0) == pytest.approx(image.deadline - margin_s)
        scene.advance(0.02)
        scene.settle()
        assert [call.values for call in scene.blocked()] == [[image.value]]
        scene.end()


def test_max_delay_ends_also_when_the_thread_that_decoded_goes_on_to_another_image():
    """Another idle one has to keep the time."""

    async def use(batcher, engine):
        pool = batcher._pool
        jobs, go, both = DecodePool(1), threading.Event(), threading.Event()
        jobs.start(pool)
        image = ticket(1)

        def decode() -> None:
            assert both.wait(60)
            while not pool._changed.asleep:  # the idle one has looked, and sleeps
                pass
            batcher.submit(image, wake=False)

        assert isinstance(image.waiter, asyncio.Future)
        jobs.submit(decode, image.waiter, 1e12, Priority.HIGH)
        other = jobs.call(lambda: go.wait(60), 2e12, Priority.HIGH)
        both.set()
        assert (await image.waiter).probabilities[0] == 1
        assert not other.done()
        go.set()
        assert await other
        jobs.close()

    with_batcher(use, max_delay_s=0.05, runners=2)


def test_max_delay_ends():
    """An incomplete batch runs when its oldest ticket has waited long enough."""
    with stage([[1e-3] * 4], threads=1, max_batch=4, max_delay_s=5.0) as scene:
        (first,) = scene.submit(0)
        scene.advance(3.0)
        (second,) = scene.submit(0)
        scene.advance(1.9)
        scene.settle()
        assert scene.blocked() == []
        scene.advance(0.2)
        scene.settle()
        assert [call.values for call in scene.blocked()] == [[first.value, second.value]]
        scene.end()


def test_cancelled_tickets_are_dropped_before_they_cost_inference():
    """A waiter that has gone costs no place in a batch, and is counted."""

    async def use(batcher, engine):
        engine.open.clear()
        first = submit(batcher, 1)
        await entered(engine)
        doomed, kept = submit(batcher, 2, 3, 4), submit(batcher, 5)
        for future in doomed:
            future.cancel()
        engine.open.set()
        await asyncio.gather(*first, *kept)
        assert engine.batches == [[1], [5]]

    metrics = with_batcher(use)
    assert b'resnet_serve_images_abandoned_total{model="m",version="1"} 3.0' in metrics.render()


def test_an_engine_error_reaches_every_waiter_and_the_next_batch_works():
    """Each waiter gets an error of its own, with the cause attached."""

    async def use(batcher, engine):
        engine.open.clear()
        first = submit(batcher, 1)
        await entered(engine)
        second = submit(batcher, 2, 3)
        engine.fail_with = RuntimeError("out of memory")
        engine.open.set()
        errors = await asyncio.gather(*first, *second, return_exceptions=True)
        assert all(isinstance(error, InferenceError) for error in errors)
        assert len({id(error) for error in errors}) == 3
        assert str(errors[0].__cause__) == "out of memory"
        engine.fail_with = None
        (future,) = submit(batcher, 4)
        assert (await future).probabilities[0] == 4

    with_batcher(use)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (SessionFailedError("CUDA failure 2: out of memory"), "being reloaded"),
        (DeviceLostError("CUDA failure 700"), "has to restart"),
    ],
)
def test_a_failed_session_or_device_fails_all_that_waits_and_the_queue_takes_nothing_until_resumed(
    failure, told
):
    """A retry on it would only make it worse."""

    async def use(batcher, engine):
        losses: list[BaseException] = []
        batcher.on_failure = losses.append
        engine.open.clear()
        first = submit(batcher, 1)
        await entered(engine)
        second = submit(batcher, 2, 3)
        engine.fail_with = failure
        engine.open.set()
        results = await asyncio.gather(*first, *second, return_exceptions=True)
        assert [type(result) for result in results] == [ModelUnavailableError] * 3
        assert losses == [failure]
        assert engine.batches == [[1]]
        with pytest.raises(ModelUnavailableError, match=told):
            submit(batcher, 4)
        replacement = HeldEngine()
        batcher.resume(replacement)
        (future,) = submit(batcher, 5)
        assert (await future).probabilities[0] == 5
        assert replacement.batches == [[5]]

    with_batcher(use)


def test_a_device_lost_amid_a_retry_fails_the_images_that_are_left():
    async def use(batcher, engine):
        losses: list[BaseException] = []
        batcher.on_failure = losses.append
        engine.open.clear()
        first = submit(batcher, 1)
        await entered(engine)
        rest = submit(batcher, 2, 3, 4)
        engine.open.set()

        def run(images, outputs):
            values = [int(image.flat[0]) for image in images]
            if len(values) > 1:
                raise RuntimeError("too many")
            if values == [3]:
                raise DeviceLostError("CUDA failure 700")
            return first_pixels(images)

        engine.run = run
        results: list[Any] = await asyncio.gather(*first, *rest, return_exceptions=True)
        assert results[1].probabilities[0] == 2
        assert [type(result) for result in results[2:]] == [ModelUnavailableError] * 2
        assert len(losses) == 1

    with_batcher(use)


def test_a_runner_that_loses_the_old_engine_late_leaves_the_new_one_alone():
    """Two run on it when it is lost; the second hears of it after the model is back."""

    async def use(batcher, engine):
        losses: list[BaseException] = []
        batcher.on_failure = losses.append
        late, go = HeldEngine(), threading.Event()

        def run(images, outputs):
            value = int(images[0].flat[0])
            if value == 1:
                assert go.wait(60)
            raise DeviceLostError(f"lost by {value}")

        engine.run = run
        first, second = submit(batcher, 1), submit(batcher, 2)
        with pytest.raises(ModelUnavailableError):
            await second[0]
        batcher.resume(late)
        go.set()
        with pytest.raises(ModelUnavailableError):
            await first[0]
        assert [str(loss) for loss in losses] == ["lost by 2"]
        (future,) = submit(batcher, 5)
        assert (await future).probabilities[0] == 5

    with_batcher(use, runners=2)


def test_an_image_that_fails_its_batch_fails_alone():
    """The batch is run again image by image."""
    answered = [2, 4]

    async def use(batcher, engine):
        engine.poison = 3
        engine.open.clear()
        first = submit(batcher, 1)
        await entered(engine)
        rest = submit(batcher, 2, 3, 4)
        engine.open.set()
        results = await asyncio.gather(*first, *rest, return_exceptions=True)
        good = [
            int(result.probabilities[0]) for result in results if isinstance(result, TicketResult)
        ]
        assert good == [1, *answered]
        bad = [result for result in results if not isinstance(result, TicketResult)]
        assert all(isinstance(result, InferenceError) for result in bad)
        retries = [[2], [3], [4]] if answered else []
        assert engine.batches == [[1], [2, 3, 4], *retries]

    with_batcher(use)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_runner_that_dies_resolves_all_waiters_and_is_reported():
    """Not an engine error but a defect or an exit: nobody may wait for a thread that is gone."""

    async def use(batcher, engine):
        engine.open.clear()
        engine.fail_with = SystemExit(3)
        first = submit(batcher, 1)
        await entered(engine)
        waiting = submit(batcher, 2)
        assert batcher.trouble(stuck_after_s=60) is None
        engine.open.set()
        errors = await asyncio.gather(*first, *waiting, return_exceptions=True)
        assert all(isinstance(error, ModelUnavailableError) for error in errors)
        assert batcher.trouble(stuck_after_s=60) == "1 of 1 runners are dead"
        with pytest.raises(ModelUnavailableError):
            submit(batcher, 3)

    with_batcher(use)


def test_tickets_of_those_who_left_do_not_pile_up_behind_a_batch_that_hangs():
    """Nobody takes any then, and each holds its image's pixels."""

    async def use(batcher, engine):
        engine.open.clear()
        (first,) = submit(batcher, 1)
        await entered(engine)
        stays = submit(batcher, 2)
        held = []
        for value in range(1000):
            (future,) = submit(batcher, value % 200)
            held.append(future)
            future.cancel()
        assert len(batcher._source._waiting) <= 128  # what is kept shows nowhere else
        engine.open.set()
        await asyncio.gather(first, *stays)

    with_batcher(use)


def test_a_batch_that_runs_too_long_is_reported():
    """A watchdog's view: stuck while the batch runs, well again after it."""

    async def use(batcher, engine):
        engine.open.clear()
        (future,) = submit(batcher, 1)
        await entered(engine)
        assert "on one batch" in batcher.trouble(stuck_after_s=0)
        engine.open.set()
        await future
        (future,) = submit(batcher, 2)
        await future
        assert batcher.trouble(stuck_after_s=20) is None

    with_batcher(use)


def test_close_answers_what_is_waiting_and_takes_no_more():
    """Stopping abandons nobody who was accepted."""

    async def use(batcher, engine):
        engine.open.clear()
        first = submit(batcher, 1)
        await entered(engine)
        rest = submit(batcher, 2, 3)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close, 60))
        while True:
            try:
                rest += submit(batcher, 4)
            except ModelUnavailableError:
                break
            await asyncio.sleep(0)
        engine.open.set()
        answers = await asyncio.gather(*first, *rest)
        assert await closing
        assert [answer.probabilities[0] for answer in answers[:3]] == [1, 2, 3]
        assert batcher.trouble(stuck_after_s=60) is None

    with_batcher(use)


def test_close_gives_up_on_a_runner_that_hangs():
    """It says so, so that the engine is not freed under a running batch."""

    async def use(batcher, engine):
        engine.open.clear()
        (future,) = submit(batcher, 1)
        await entered(engine)
        assert not await asyncio.to_thread(batcher.close, 0.01)
        engine.open.set()
        await future

    with_batcher(use)


def test_idle_runners_share_out_what_waits():
    """Two batches of half the size, side by side, and not one beside an idle runner."""

    async def use(batcher, engine):
        engine.open.clear()
        first = submit(batcher, 1, 2)
        await entered(engine)
        await entered(engine)
        assert sorted(engine.batches) == [[1], [2]]
        rest = submit(batcher, 3, 4, 5, 6)
        engine.open.set()
        answers = await asyncio.gather(*first, *rest)
        assert [answer.probabilities[0] for answer in answers] == [1, 2, 3, 4, 5, 6]

    with_batcher(use, runners=2)


def check_runs(batches: list[list[int]]) -> None:
    """Images run in order of arrival; only one of a failed batch runs again, once and alone."""
    seen: list[int] = []
    for batch in batches:
        again = [value for value in batch if value in seen]
        assert not again or (len(batch) == 1 and seen.count(again[0]) == 1)
        seen += batch
    first_runs = list(dict.fromkeys(seen))
    assert first_runs == sorted(first_runs)


@settings(max_examples=60)
@given(
    max_batch=st.integers(1, 5),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("submit"), st.integers(1, 6)),
            st.tuples(st.just("cancel"), st.integers(0, 30)),
            st.tuples(st.just("fail"), st.booleans()),
            st.tuples(st.just("yield"), st.integers(1, 3)),
        ),
        max_size=40,
    ),
)
def test_every_ticket_is_resolved_exactly_once_under_any_interleaving(max_batch, steps):
    """Arrivals, cancellations and engine errors in any order; order and bound hold throughout."""

    async def use(batcher, engine):
        futures: list[asyncio.Future[TicketResult]] = []
        for action, argument in steps:
            if action == "submit":
                futures += submit(batcher, *range(len(futures), len(futures) + argument))
            elif action == "cancel" and argument < len(futures):
                futures[argument].cancel()
            elif action == "fail":
                engine.fail_with = RuntimeError("fault") if argument else None
            elif action == "yield":
                for _ in range(argument):
                    await asyncio.sleep(0)
        results = await asyncio.gather(*futures, return_exceptions=True)
        for value, result in enumerate(results):
            if isinstance(result, TicketResult):
                assert result.probabilities[0] == value
                assert 1 <= result.batch_size <= max_batch
            else:
                assert isinstance(result, InferenceError | asyncio.CancelledError)
        check_runs(engine.batches)
        assert all(len(batch) <= max_batch for batch in engine.batches)

    with_batcher(use, max_batch=max_batch)
