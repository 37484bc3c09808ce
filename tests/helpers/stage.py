"""A runner pool under the test's control: it releases each piece of work and moves the clock.

Whatever the threads do, each take of work is checked while it happens, against a simple model of
the queues. What is wrong is collected in `Stage.wrong`, since an assertion on a runner's thread
would only kill the runner.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import pytest
from clock import Clock, Sleepers, simulated_time
from fixed_table import FixedTable
from staged_calls import Call, Defect, Ending, StagedEngine
from waiting import PATIENCE_S, wait_until

from service.batching.batcher import Batcher
from service.batching.decode_pool import DecodePool
from service.batching.job_source import Job
from service.batching.latency import LatencyTable
from service.batching.schedule import Run, Schedule
from service.batching.ticket import Priority, Ticket, TicketResult
from service.batching.work_source import ConcurrencyLimit, WorkSource
from service.batching.workers import WorkerPool
from service.errors import ModelUnavailableError, StoppingError
from service.metrics import Metrics

_PAUSE_S = 0.0005
"""Interval of polling, since constant polling would keep the pool's lock from the runners."""

_NAMES = count()


class Place(Enum):
    """The stage that an image has reached."""

    TO_DECODE = auto()
    DECODING = auto()
    IN_LINE = auto()
    TAKEN = auto()


@dataclass(eq=False)
class Entry:
    """What the test knows about one image."""

    value: int
    batcher: StagedBatcher
    future: asyncio.Future[TicketResult]
    queued: float
    deadline: float
    priority: Priority
    place: Place = Place.IN_LINE
    arrival: int = 0  # order among queued images
    decode: Call | None = None
    seen_done: bool = False

    def sort_key(self, now: float) -> tuple[int, float]:
        """Return the current priority and deadline: low moves up at half of its time."""
        half = self.queued + (self.deadline - self.queued) / 2
        high = self.priority is Priority.HIGH or now >= half
        return (0 if high else 1), self.deadline

    def ticket(self) -> Ticket:
        pixels = np.zeros((1, 1, 4), np.uint8)
        pixels.view(np.uint32)[0, 0, 0] = self.value
        return Ticket(pixels, self.future, self.queued, self.deadline, self.priority)


class StagedBatcher(Batcher):
    """A batcher whose images the test tracks."""

    def __init__(self, stage: Stage, number: int, table: LatencyTable, max_batch: int) -> None:
        self.stage, self.number, self.max_batch = stage, number, max_batch
        self.latencies = table
        self.engine = StagedEngine()
        self.entries: list[Entry] = []
        self.closer: threading.Thread | None = None
        self.given_up = False  # closed without time to run what was waiting
        self.closed: bool | None = None
        super().__init__(
            self.engine,
            stage.metrics.for_model(f"m{number}", 1),
            stage.pool,
            max_batch=max_batch,
            max_delay_s=stage.max_delay_s,
            latencies=table,
            concurrency=stage.concurrency,
        )

    @property
    def source(self) -> WorkSource:
        """Return the source that the pool's threads see."""
        return self._source

    def line(self) -> list[Entry]:
        """Return the images that can be served now, in order."""
        now, least_s = self.stage.clock.now, self.latencies.median_s(1)
        live = [
            entry
            for entry in self.entries
            if entry.place is Place.IN_LINE
            and not entry.future.cancelled()
            and now + least_s <= entry.deadline
        ]
        return sorted(live, key=lambda entry: (*entry.sort_key(now), entry.arrival))

    def judge(self, batch: list[Ticket], lines: Lines) -> None:
        """Check a batch that is taken."""
        first = self.stage.judge(self, len(batch), lines)
        if [entry.future for entry in first] != [ticket.waiter for ticket in batch]:
            self.stage.wrong.append(f"not the first in line of model {self.number}")
        self._judge_size(batch)
        for entry in first:
            entry.place = Place.TAKEN

    def _judge_size(self, batch: list[Ticket]) -> None:
        if len(batch) > self.max_batch:
            self.stage.wrong.append(f"{len(batch)} in a batch")
        soonest = min(ticket.deadline for ticket in batch)
        if len(batch) > 1 and self.stage.clock.now + self.latencies.p95_s(len(batch)) > soonest:
            self.stage.wrong.append("a batch so large that one in it gets late")


class StagedJobs(DecodePool):
    """A queue of decodes that the test tracks."""

    def __init__(self, stage: Stage, threads: int) -> None:
        super().__init__(threads)
        self.stage = stage

    @property
    def source(self) -> WorkSource:
        """Return the source that the pool's threads see."""
        return self._source

    def line(self) -> list[Entry]:
        """Return the images that wait for decoding, in order."""
        live = [
            entry
            for batcher in self.stage.batchers
            for entry in batcher.entries
            if entry.place is Place.TO_DECODE and not entry.future.cancelled()
        ]
        now = self.stage.clock.now
        return sorted(live, key=lambda entry: (*entry.sort_key(now), entry.arrival))

    def judge(self, batch: list[Job], lines: Lines) -> None:
        """Check a job that is taken."""
        first = self.stage.judge(self, 1, lines)
        if [entry.future for entry in first] != [job.waiter for job in batch]:
            self.stage.wrong.append("not the first to be decoded")
        for entry in first:
            entry.place = Place.DECODING


class JudgedSchedule(Schedule):
    """A schedule that checks every piece of work as it is taken, under the pool's lock."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def begin(self, thread: int, idle: int) -> Run | float:
        lines = self._stage.lines()
        run = super().begin(thread, idle)
        if isinstance(run, Run):
            self._stage.face_of(run.source).judge(run.batch, lines)
        return run


Lines = dict[StagedBatcher | StagedJobs, list[Entry]]


class Stage:
    """Some models and their decoding on one pool, with at most `runners` batches at a time.

    Every method is called on the test's thread.
    """

    def __init__(
        self,
        tables: list[list[float]],
        *,
        threads: int,
        runners: int | None = None,
        decoders: int | None = None,
        max_batch: int = 1,
        max_delay_s: float = 0.0,
        serial: bool = False,
    ) -> None:
        self.clock = Clock()
        self.wrong: list[str] = []
        self.metrics = Metrics()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.wrong.append(str(context)))
        self.name = f"stage{next(_NAMES)}"
        self.sleepers = Sleepers()
        self.jobs = StagedJobs(self, decoders or threads)
        self.batchers: list[StagedBatcher] = []
        self.pool = WorkerPool(
            threads, name=self.name, schedule=JudgedSchedule(self), changed=self.sleepers
        )
        self.concurrency = ConcurrencyLimit(runners or threads, serial=serial)
        self.max_delay_s = max_delay_s
        self.pool_closer: threading.Thread | None = None
        self._values, self._arrivals = count(1), count()
        self.do(self._open, tables, max_batch)

    def do(self, call: Callable[..., object], *arguments: object) -> None:
        """Call on the running loop, and let scheduled callbacks run."""

        async def main() -> None:
            call(*arguments)
            await asyncio.sleep(0)

        self.loop.run_until_complete(main())

    def _open(self, tables: list[list[float]], max_batch: int) -> None:
        self.jobs.start(self.pool)
        for number, times in enumerate(tables):
            self.batchers.append(StagedBatcher(self, number, FixedTable(times), max_batch))

    # Events, each one step that no take of work can interleave with.

    def submit(
        self,
        model: int,
        *,
        count: int = 1,
        time_s: float = 1e6,
        priority: Priority = Priority.HIGH,
        decode: bool = False,
        poisoned: bool = False,
    ) -> list[Entry]:
        """Submit images with `time_s` until their deadline; return those that are not refused."""
        batcher, now = self.batchers[model], self.clock.now
        place = Place.TO_DECODE if decode else Place.IN_LINE
        entries = []
        with self.sleepers:
            for _ in range(count):
                future: asyncio.Future[TicketResult] = self.loop.create_future()
                entry = Entry(
                    next(self._values), batcher, future, now, now + time_s, priority, place
                )
                if poisoned:
                    batcher.engine.poisoned.add(entry.value)
                batcher.entries.append(entry)
                if self._submit(entry):
                    entries.append(entry)
                else:
                    batcher.entries.remove(entry)
        return entries

    def _submit(self, entry: Entry) -> bool:
        closing = entry.batcher.closer is not None or entry.batcher.given_up
        entry.arrival = next(self._arrivals)
        try:
            if entry.place is Place.TO_DECODE:
                work = partial(self._decode, entry)
                self.jobs.submit(work, entry.future, entry.deadline, entry.priority)
            else:
                entry.batcher.submit(entry.ticket())
        except (ModelUnavailableError, StoppingError):
            if self.alive() and not (closing and entry.place is Place.IN_LINE):
                self.wrong.append(f"{entry.value} was refused")
            return False
        return True

    def _decode(self, entry: Entry) -> None:
        """Simulate a decode on a thread of the pool, and queue the pixels as a request does."""
        entry.decode = Call([entry.value], is_decode=True)
        entry.decode.wait(set())
        with self.sleepers:
            entry.place, entry.queued = Place.IN_LINE, self.clock.now
            entry.arrival = next(self._arrivals)
            try:
                entry.batcher.submit(entry.ticket(), wake=False)
            except ModelUnavailableError:
                entry.place = Place.TAKEN
                raise

    def cancel(self, entry: Entry) -> None:
        """Cancel a waiter."""
        with self.sleepers:
            entry.future.cancel()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.settle()  # so that images told to be late are checked by the time so far
        with self.sleepers:
            self.clock.now += seconds
            if self.concurrency.serial or self.max_delay_s:  # a thread's alarm is by the real clock
                self.sleepers.notify_all()

    def close_model(self, model: int) -> None:
        """Start closing a model, with unlimited time."""
        batcher = self.batchers[model]
        if batcher.closer is None and not batcher.given_up:

            def close() -> None:
                batcher.closed = batcher.close(3 * PATIENCE_S)

            batcher.closer = threading.Thread(target=close)
            batcher.closer.start()

    def give_up_model(self, model: int) -> None:
        """Close a model without any time for what is waiting."""
        batcher = self.batchers[model]
        if batcher.closer is None:
            batcher.given_up = True
            batcher.close(0.0)

    def close_pool(self) -> None:
        """Start closing the pool."""
        if self.pool_closer is None:
            self.pool_closer = threading.Thread(target=self.pool.close, args=(3 * PATIENCE_S,))
            self.pool_closer.start()

    def note_death(self, death: threading.ExceptHookArgs) -> None:
        """Replace `threading.excepthook`: threads may only die of what the test ordered."""
        if death.exc_type is not Defect:
            self.wrong.append(f"{death.thread} died of {death.exc_value!r}")

    # Knowledge.

    @property
    def entries(self) -> list[Entry]:
        """Return all images in order of arrival."""
        entries = [entry for batcher in self.batchers for entry in batcher.entries]
        return sorted(entries, key=lambda entry: entry.value)

    def offer_at(self, model: int) -> float:
        """Return when a model's next batch is due."""
        with self.sleepers:
            offer = self.batchers[model].source.offer(self.clock.now, 1)
        assert offer is not None
        return offer.at

    def blocked(self) -> list[Call]:
        """Return the work that waits to be released."""
        decodes = [entry.decode for entry in self.entries if entry.decode is not None]
        calls = [call for batcher in self.batchers for call in tuple(batcher.engine.calls)]
        return [call for call in (*decodes, *calls) if call.ending is None]

    def alive(self) -> int:
        """Return how many of the pool's threads are alive."""
        return len(self._threads())

    def _threads(self) -> list[threading.Thread]:
        start = f"runner-{self.name}-"
        return [thread for thread in threading.enumerate() if thread.name.startswith(start)]

    def lines(self) -> Lines:
        """Return what could be served now, by source; call with the lock held."""
        served: list[StagedBatcher | StagedJobs] = [self.jobs]
        served += [batcher for batcher in self.batchers if not batcher.given_up]
        return {
            source: line
            for source in served
            if source.source.concurrency.free
            and (line := source.line())
            and (offer := source.source.offer(self.clock.now, 1)) is not None
            and offer.at <= self.clock.now
        }

    def face_of(self, source: WorkSource) -> StagedBatcher | StagedJobs:
        """Return the batcher or jobs that a source belongs to."""
        faces: list[StagedBatcher | StagedJobs] = [self.jobs, *self.batchers]
        return next(face for face in faces if face.source is source)

    def judge(self, source: StagedBatcher | StagedJobs, size: int, lines: Lines) -> list[Entry]:
        """Compare what is taken with the queues then; return what should have been taken."""
        now, first = self.clock.now, lines.get(source, [])[:size]
        if not first:
            self.wrong.append("work for somebody who was not in line, or a limit exceeded")
            return []
        for other, line in lines.items():
            if line[0].sort_key(now) < first[0].sort_key(now) and not _may_be_passed(
                other, lines, now
            ):
                self.wrong.append(f"{first[0].value} before {line[0].value}, which is more urgent")
        return first

    # Waiting.

    def settle(self) -> None:
        """Wait until the threads can't do any more without a release."""
        wait_until(lambda: not self._unsettled(), self._unsettled)
        self.do(lambda: None)
        self._note_late()
        if self.alive() == 0:
            left = [entry.value for entry in self.entries if not entry.future.done()]
            if left:
                self.wrong.append(f"no thread is left, and nobody told {left}")
        self.check()

    def wait_for_sleepers(self, number: int) -> None:
        """Wait until `number` threads, of the pool or closing models, wait to be woken."""
        sleepers = self.sleepers
        wait_until(lambda: sleepers.asleep == number, lambda: f"{sleepers.asleep} asleep")

    def _unsettled(self) -> str | None:
        sources: list[StagedBatcher | StagedJobs] = [self.jobs, *self.batchers]
        with self.sleepers:
            runs = sum(len(self.pool.schedule.runs_of(source.source)) for source in sources)
            blocked, alive = len(self.blocked()), self.alive()
            if runs != blocked:
                return f"{runs} runs, and {blocked} of them wait for a cue"
            if self.pool_closer is not None:
                return f"{alive} threads of a closed pool" if alive != blocked else None
            if blocked < alive and self.lines():
                return "an idle thread beside work"
            for batcher in self.batchers:
                closing = batcher.closer is not None and batcher.closer.is_alive()
                left = batcher.line() or self.pool.schedule.runs_of(batcher.source)
                if closing and blocked < alive and not left:
                    return "a model that is not closed although nothing is left of it"
        return None

    def _note_late(self) -> None:
        """Check that images that were failed as late could no longer be served."""
        for entry in self.entries:
            if not entry.seen_done and entry.future.done():
                entry.seen_done = True
                late = outcome_of(entry) == "DeadlineExceededError"
                least_s = entry.batcher.latencies.median_s(1)
                if late and self.clock.now + least_s <= entry.deadline:
                    self.wrong.append(f"{entry.value} was told to be late and was not")

    def check(self) -> None:
        """Fail if anything has been wrong."""
        assert not self.wrong, "; ".join(self.wrong)

    # The end.

    def end(self) -> None:
        """Let all work succeed, close everything, and check each image's outcome."""
        self.settle()
        while calls := self.blocked():
            for call in calls:
                call.end(Ending.ANSWER)
            self.settle()
        for batcher in self.batchers:
            if batcher.closer is not None:
                batcher.closer.join(PATIENCE_S)
                assert batcher.closed, f"model {batcher.number} did not close"
            assert batcher.close(PATIENCE_S)
        self.jobs.close()
        assert self.pool.close(PATIENCE_S)
        assert self.alive() == 0
        assert self.pool.schedule.running() == []
        self.do(lambda: None)
        self._note_late()
        for entry in self.entries:
            assert outcome_of(entry) in self._due(entry), entry
        self.check()

    def _due(self, entry: Entry) -> set[str]:
        """Return an image's possible outcomes, given its last piece of work."""
        calls = [call for call in entry.batcher.engine.calls if entry.value in call.values]
        if len(calls) > 2 or (len(calls) == 2 and len(calls[1].values) > 1):
            self.wrong.append(f"{entry.value} ran in {[call.values for call in calls]}")
        if entry.future.cancelled():
            return {"cancelled"}
        if calls:
            last = calls[-1]
            if last.ending is Ending.ANSWER:
                return {f"answer {entry.value}"}
            # Each image of a failed batch is retried alone, unless the thread dies first.
            alone = len(last.values) == 1
            failed = last.ending is Ending.FAIL
            return {"InferenceError" if failed and alone else "ModelUnavailableError"}
        if entry.decode is not None and entry.decode.ending is Ending.FAIL:
            return {"RuntimeError"}
        if entry.decode is not None and entry.decode.ending is Ending.DIE:
            return {"ModelUnavailableError"}
        closing = entry.batcher.closer is not None or entry.batcher.given_up
        ended = closing or self.pool_closer is not None or self.pool.ended
        return {"DeadlineExceededError", *(["ModelUnavailableError"] if ended else [])}

    def clean_up(self) -> None:
        """Leave no thread behind, however the test ended."""
        end = time.monotonic() + PATIENCE_S
        self.close_pool()
        while self.alive() and time.monotonic() < end:
            for call in self.blocked():
                call.end(Ending.FAIL)
            time.sleep(_PAUSE_S)
        for batcher in self.batchers:
            if batcher.closer is not None:
                batcher.closer.join(PATIENCE_S)
        if self.pool_closer is not None:
            self.pool_closer.join(PATIENCE_S)
        self.do(lambda: None)
        for entry in self.entries:
            if entry.future.done() and not entry.future.cancelled():
                entry.future.exception()  # retrieved, so that asyncio does not complain
        self.loop.close()


def _may_be_passed(source: StagedBatcher | StagedJobs, lines: Lines, now: float) -> bool:
    """Return whether a batch may wait, as it has time and there is other work."""
    priority = lines[source][0].sort_key(now)[0]
    other_work = any(
        line[0].sort_key(now)[0] <= priority
        for other, line in lines.items()
        if other.source.concurrency is not source.source.concurrency
    )
    return other_work and source.source.may_yield(0.0, now)


def outcome_of(entry: Entry) -> str:
    """Return an image's outcome in a word."""
    future = entry.future
    if not future.done():
        return "unresolved"
    if future.cancelled():
        return "cancelled"
    error = future.exception()
    return type(error).__name__ if error else f"answer {int(future.result().probabilities[0])}"


@contextmanager
def stage(tables: list[list[float]], **options: Any) -> Iterator[Stage]:
    """Yield a stage with a model per table of times, and clear it afterwards."""
    scene = Stage(tables, **options)
    with pytest.MonkeyPatch.context() as patch, simulated_time(scene.clock):
        patch.setattr(threading, "excepthook", scene.note_death)
        try:
            yield scene
        finally:
            scene.clean_up()
