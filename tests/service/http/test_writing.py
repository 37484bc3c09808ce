"""Waiting for clients that don't read: for as long as they take some, and no longer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from service.http.writing import WriteTimeout


class Connection(asyncio.Transport):
    """A client that takes what the test says, and a clock that the test moves."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left, self.now, self.ended = left, 0.0, False
        self.timers: list[tuple[float, asyncio.TimerHandle, Any]] = []
        self.loop = asyncio.new_event_loop()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits = high, low

    def get_write_buffer_size(self) -> int:
        return self.left

    def abort(self) -> None:
        self.ended = True

    def call_later(self, delay: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(0, callback, args, self.loop)
        self.timers.append((self.now + delay, handle, (callback, args)))
        return handle

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer[0] <= self.now]
        self.timers = [timer for timer in self.timers if timer[0] > self.now]
        for _, handle, (callback, args) in due:
            if not handle.cancelled():
                callback(*args)


@pytest.fixture
def connection():
    made = Connection(1000)
    yield made
    made.loop.close()


@pytest.fixture
def dropped() -> list[int]:
    return []


@pytest.fixture
def timeout(connection, dropped) -> WriteTimeout:
    return WriteTimeout(connection, connection, 30, dropped.append)


def test_who_takes_nothing_is_dropped_when_the_time_is_over(connection, timeout, dropped):
    timeout.start()
    connection.pass_time(29)
    assert not connection.ended
    connection.pass_time(1)
    assert connection.ended
    assert dropped == [1000]


def test_who_takes_a_little_each_time_is_waited_for(connection, timeout, dropped):
    timeout.start()
    for left in (999, 500, 1):
        connection.left = left
        connection.pass_time(30)
        assert not connection.ended
    connection.pass_time(30)
    assert connection.ended
    assert dropped == [1]


def test_who_has_taken_all_has_time_again_for_the_next_answer(connection, timeout, dropped):
    timeout.start()
    connection.pass_time(29)
    timeout.stop()
    connection.pass_time(29)
    timeout.start()
    connection.pass_time(29)
    assert not connection.ended
    assert dropped == []


@pytest.mark.parametrize(("sslcontext", "high"), [(None, 0), (object(), 1)])
def test_the_protocol_hears_of_a_single_byte_that_is_left(sslcontext, high):
    """With TLS, none left would be as many as a limit of 0."""
    connection = Connection(0)
    connection._extra = {"sslcontext": sslcontext}  # type: ignore[attr-defined]
    WriteTimeout(connection, connection, 30, print).watch()  # type: ignore[arg-type]
    assert connection.limits == (high, 0)
    connection.loop.close()
