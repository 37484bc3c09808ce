"""Jobs for the pool's threads: order, limits, and that every waiter hears of the end."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from clock import Clock, simulated_time

from service.batching.costs import Work
from service.batching.decode_pool import DecodePool
from service.batching.demand import Rank
from service.batching.ticket import Priority
from service.batching.workers import WorkerPool
from service.errors import ModelUnavailableError, StoppingError

FAR = 1e12


def with_jobs(use: Callable[[DecodePool, WorkerPool], Awaitable[None]], threads: int = 1) -> None:
    """Run `use` with a job queue of its own, on a pool of three threads."""

    async def main() -> None:
        pool, jobs = WorkerPool(3), DecodePool(threads)
        jobs.start(pool)
        try:
            async with asyncio.timeout(60):
                await use(jobs, pool)
        finally:
            jobs.close()
            assert pool.close(60)

    asyncio.run(main())


class Held:
    """A job that waits until the test lets it go."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.begun.set()
        assert self.go.wait(60)
        return "done"


async def begun(job: Held) -> None:
    assert await asyncio.to_thread(job.begun.wait, 60)


def test_a_job_gives_its_value_or_its_error():
    def fail() -> None:
        raise ValueError("broken")

    async def use(jobs: DecodePool, _: WorkerPool) -> None:
        assert await jobs.call(lambda: 7, FAR, Priority.HIGH) == 7
        with pytest.raises(ValueError, match="broken"):
            await jobs.call(fail, FAR, Priority.HIGH)

    with_jobs(use)


def test_jobs_run_by_priority_then_deadline_then_arrival_and_dropped_ones_never():
    async def use(jobs: DecodePool, _: WorkerPool) -> None:
        first, order = Held(), list[str]()

        def note(name: str) -> Callable[[], None]:
            return lambda: order.append(name)

        running = jobs.call(first, FAR, Priority.HIGH)
        await begun(first)
        waiting = [
            jobs.call(note("low"), FAR, Priority.LOW),
            jobs.call(note("late"), FAR + 3, Priority.HIGH),
            jobs.call(note("early"), FAR + 2, Priority.HIGH),
            jobs.call(note("early too"), FAR + 2, Priority.HIGH),
        ]
        jobs.call(note("dropped"), 0.0, Priority.HIGH).cancel()
        first.go.set()
        await asyncio.gather(running, *waiting)
        assert order == ["early", "early too", "late", "low"]

    with_jobs(use)


def test_no_more_threads_than_allowed_work_on_jobs():
    async def use(jobs: DecodePool, pool: WorkerPool) -> None:
        held = [Held(), Held(), Held()]
        futures = [jobs.call(job, FAR, Priority.HIGH) for job in held]
        await begun(held[0])
        await begun(held[1])
        assert len(pool.schedule.runs_of(jobs._source)) == 2
        assert not held[2].begun.is_set()
        held[0].go.set()
        await begun(held[2])
        for job in held:
            job.go.set()
        assert await asyncio.gather(*futures) == ["done"] * 3

    with_jobs(use, threads=2)


SMALL, LARGE = Work("png", 64 * 64, 8_000), Work("png", 50_000_000, 400_000)


def soon(clock: Clock, seconds: float, priority: Priority = Priority.HIGH) -> Rank:
    return Rank(clock.now + seconds, priority, clock.now + seconds / 2)


def test_what_is_before_whom_is_predicted_from_what_is_known_of_each_job():
    """Those that are due later are not, however large they are."""
    clock = Clock()

    async def use(jobs: DecodePool, _: WorkerPool) -> None:
        small_s, large_s = jobs.expect_s(SMALL), jobs.expect_s(LARGE)
        assert jobs.is_idle
        held = Held()
        running = jobs.call(held, clock.now + 50, Priority.HIGH, LARGE)
        await begun(held)
        waiting = [
            jobs.call(lambda: None, clock.now + 1, Priority.HIGH, SMALL),
            jobs.call(lambda: None, clock.now + 99, Priority.HIGH, LARGE),
            jobs.call(lambda: None, clock.now + 2, Priority.LOW, LARGE),
        ]
        now = clock.now
        assert not jobs.is_idle
        assert jobs.before_s(soon(clock, 0.9), now) == 0
        assert jobs.before_s(soon(clock, 10), now) == small_s
        assert jobs.before_s(soon(clock, 10), now + 1) == pytest.approx(small_s + large_s)
        assert jobs.before_s(soon(clock, 99), now) == pytest.approx(small_s + large_s)
        low_s = jobs.before_s(soon(clock, 3, Priority.LOW), now)
        assert low_s == pytest.approx(small_s + 2 * large_s)
        waiting.pop().cancel()
        await asyncio.sleep(0)
        assert jobs.before_s(soon(clock, 10), now + 1) == small_s
        held.go.set()
        await asyncio.gather(running, *waiting)
        assert jobs.before_s(soon(clock, 1e6), now) == 0
        assert jobs.is_idle

    with simulated_time(clock):
        with_jobs(use)


def test_what_is_left_of_a_job_is_predicted_and_as_much_again_once_it_takes_longer():
    clock = Clock()

    async def use(jobs: DecodePool, _: WorkerPool) -> None:
        held = Held()
        running = jobs.call(held, FAR, Priority.HIGH, LARGE)
        await begun(held)
        expected_s = jobs.expect_s(LARGE)
        clock.now += expected_s / 4
        assert jobs.rests_s() == [pytest.approx(expected_s * 3 / 4)]
        clock.now += expected_s
        assert jobs.rests_s() == [pytest.approx(expected_s * 5 / 4)]
        held.go.set()
        await running
        assert jobs.rests_s() == [], "though its thread may not have gone on yet"

    with simulated_time(clock):
        with_jobs(use)


def test_predictions_learn_from_jobs_that_were_done_to_their_end_alone():
    """A broken file is refused early, and says nothing of whole ones."""
    clock = Clock()

    async def use(jobs: DecodePool, pool: WorkerPool) -> None:
        def decode(took_s: float, error: Exception | None = None) -> None:
            clock.now += took_s
            if error:
                raise error

        before_s = jobs.expect_s(SMALL)
        for _ in range(10):
            broken = partial(decode, before_s / 100, ValueError("broken"))
            with pytest.raises(ValueError, match="broken"):
                await jobs.call(broken, FAR, Priority.HIGH, SMALL)
        assert jobs.expect_s(SMALL) == before_s
        for _ in range(10):
            slow = partial(decode, 4 * before_s)
            await jobs.call(slow, FAR, Priority.HIGH, SMALL)
        # The value is there a moment before the thread has learned from the last one.
        assert jobs.expect_s(SMALL) > 1.5 * before_s

    with simulated_time(clock):
        with_jobs(use)


def test_what_a_job_waited_is_none_of_what_it_takes():
    """Large images wait for memory; small ones of the same kind are not to be refused for that."""
    clock, waited = Clock(), 0.0

    async def use() -> None:
        nonlocal waited
        pool, jobs = WorkerPool(1), DecodePool(1, lambda: waited)
        jobs.start(pool)

        def waits(seconds: float, took_s: float) -> None:
            nonlocal waited
            clock.now += seconds + took_s
            waited += seconds

        try:
            before_s = jobs.expect_s(SMALL)
            for _ in range(10):
                await jobs.call(partial(waits, 5.0, before_s), FAR, Priority.HIGH, SMALL)
            await jobs.call(partial(waits, 0.0, before_s), FAR, Priority.HIGH, SMALL)
            assert jobs.expect_s(SMALL) == pytest.approx(before_s, rel=0.01)
        finally:
            jobs.close()
            assert pool.close(60)

    with simulated_time(clock):
        asyncio.run(use())


def test_a_job_that_takes_too_long_is_reported():
    async def use(jobs: DecodePool, pool: WorkerPool) -> None:
        assert jobs.trouble(stuck_after_s=0) is None
        held = Held()
        future = jobs.call(held, FAR, Priority.HIGH)
        await begun(held)
        assert "on one job for" in str(jobs.trouble(stuck_after_s=0))
        assert jobs.trouble(stuck_after_s=60) is None
        held.go.set()
        await future
        while pool.schedule.runs_of(jobs._source):  # noqa: ASYNC110 - a pool has no event for it
            await asyncio.sleep(0)
        assert jobs.trouble(stuck_after_s=0) is None

    with_jobs(use)


def test_what_a_cancelled_job_holds_is_let_go_at_once():
    """A body of many megabytes, behind others with nearer deadlines."""

    class Body:
        def read(self) -> None:
            pass

    async def use(jobs: DecodePool, _: WorkerPool) -> None:
        job = Held()
        running = jobs.call(job, FAR, Priority.HIGH)
        await begun(job)
        urgent = jobs.call(lambda: None, FAR, Priority.HIGH)
        body = Body()
        held = weakref.ref(body)
        far = jobs.call(body.read, 2 * FAR, Priority.HIGH)
        del body
        assert held() is not None
        far.cancel()
        await asyncio.sleep(0)
        assert held() is None
        job.go.set()
        await asyncio.gather(running, urgent)

    with_jobs(use)


def test_a_thread_that_waits_holds_nothing_of_its_last_job():
    """A body of many megabytes would stay with each of them until the next one comes."""

    class Body:
        def read(self) -> int:
            return 7

    async def use(jobs: DecodePool, _: WorkerPool) -> None:
        body, gone, loop = Body(), asyncio.Event(), asyncio.get_running_loop()
        weakref.finalize(body, lambda: loop.call_soon_threadsafe(gone.set))
        assert await jobs.call(body.read, FAR, Priority.HIGH) == 7
        del body
        await gone.wait()  # its thread may not have come to its wait yet

    with_jobs(use)


def test_closing_fails_what_waits_and_takes_no_more():
    async def use(jobs: DecodePool, _: WorkerPool) -> None:
        job = Held()
        running = jobs.call(job, FAR, Priority.HIGH)
        await begun(job)
        waiting = jobs.call(lambda: None, FAR, Priority.HIGH)
        jobs.close()
        with pytest.raises(StoppingError):
            await waiting
        with pytest.raises(StoppingError):
            jobs.call(lambda: None, FAR, Priority.HIGH)
        job.go.set()
        assert await running == "done"

    with_jobs(use)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_when_the_threads_die_nobody_waits_for_ever():
    """The one whose job killed its thread hears of it, and after the last death everyone."""

    def die() -> None:
        raise SystemExit

    async def use(jobs: DecodePool, pool: WorkerPool) -> None:
        job = Held()
        held = [jobs.call(die, FAR, Priority.HIGH), jobs.call(die, FAR, Priority.HIGH)]
        for future in held:
            with pytest.raises(ModelUnavailableError):
                await future
        running = jobs.call(job, 0.0, Priority.HIGH)
        await begun(job)
        last = jobs.call(die, 0.0, Priority.HIGH)
        never = jobs.call(lambda: None, FAR, Priority.LOW)
        job.go.set()
        assert await running == "done"
        for future in (last, never):
            with pytest.raises(ModelUnavailableError):
                await future
        assert pool.ended
        with pytest.raises(ModelUnavailableError):
            jobs.call(lambda: None, FAR, Priority.HIGH)

    with_jobs(use)
