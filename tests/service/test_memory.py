"""Freed memory goes back to the system, where the C library can be told to give it."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import threading
from types import SimpleNamespace

from service import memory
from service.memory import TrimPolicy, give_back_freed, resident_bytes


def test_the_c_library_is_told(monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=asked.append))
    give_back_freed()
    assert asked == [0]


def test_a_c_library_that_can_not_be_told_is_let_be(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    give_back_freed()


def test_it_works_with_the_one_that_is_here():
    give_back_freed()


def test_the_memory_of_this_process_is_read():
    before = resident_bytes()
    assert before is not None
    assert before > 2**20
    kept = b"x" * 2**26
    after = resident_bytes()
    assert after is not None
    assert after - before > len(kept) // 2


def test_a_system_that_does_not_tell_is_let_be(monkeypatch, tmp_path):
    monkeypatch.setattr("service.memory._STATM", tmp_path / "none")
    assert resident_bytes() is None


MB = 2**20


def test_memory_is_given_back_as_soon_as_much_has_been_added():
    policy = TrimPolicy(100 * MB, now=0)
    assert not policy.is_due(132 * MB, now=1)
    assert policy.is_due(133 * MB, now=1)


def test_what_was_in_use_then_is_given_back_later():
    """It stayed when the rest was given back, and nothing has been added since."""
    policy = TrimPolicy(100 * MB, now=0)
    policy.done(500 * MB, 400 * MB, now=1)
    assert not policy.is_due(400 * MB, now=2)
    assert policy.is_due(400 * MB, now=11)
    policy.done(400 * MB, 104 * MB, now=11)
    assert not policy.is_due(104 * MB, now=1000)


def test_the_least_that_ever_was_is_what_counts():
    policy = TrimPolicy(150 * MB, now=0)
    policy.done(200 * MB, 100 * MB, now=1)
    policy.done(200 * MB, 104 * MB, now=2)
    assert not policy.is_due(104 * MB, now=20)
    assert policy.is_due(105 * MB, now=20)


def test_what_stays_is_tried_ever_more_seldom():
    """A model that was loaded later is no freed memory; much more at once is tried at once."""
    policy, now = TrimPolicy(100 * MB, now=0), 0
    policy.done(200 * MB, 200 * MB, now)
    for wait in (20, 40, 40, 40):
        assert not policy.is_due(200 * MB, now + wait - 1)
        now += wait
        assert policy.is_due(200 * MB, now)
        policy.done(200 * MB, 200 * MB, now)
    assert not policy.is_due(232 * MB, now + 1)
    assert policy.is_due(233 * MB, now + 1)
    policy.done(233 * MB, 200 * MB, now + 1)
    assert policy.is_due(205 * MB, now + 11)


def test_a_running_service_gives_back_off_the_event_loop(monkeypatch):
    """Once for what was added, and not again when that has gone."""
    seen = itertools.chain([100 * MB, 100 * MB, 200 * MB, 101 * MB], itertools.repeat(101 * MB))
    threads: list[threading.Thread] = []
    monkeypatch.setattr(memory, "_PERIOD_S", 0)
    monkeypatch.setattr(
        memory, "give_back_freed", lambda: threads.append(threading.current_thread())
    )

    async def run() -> None:
        looked = 0
        enough = asyncio.Event()

        def look() -> int:
            nonlocal looked
            looked += 1
            if looked == 20:
                enough.set()
            return next(seen)

        monkeypatch.setattr(memory, "resident_bytes", look)
        task = asyncio.create_task(memory.give_back_while_running())
        await enough.wait()
        task.cancel()

    asyncio.run(run())
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
