"""One thread for a device: in order, watched, and never in the way of an end."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial

import pytest
from structlog.testing import capture_logs

from service.engine.device_thread import DeviceThread


@pytest.fixture
def thread():
    thread = DeviceThread("gpu-test")
    yield thread
    thread.close(10)


def named() -> int:
    return [each.name for each in threading.enumerate()].count("gpu-test")


def test_it_begins_with_the_first_work_and_everything_is_done_on_it(thread):
    assert named() == 0
    done_on = {thread.call(threading.current_thread).name for _ in range(3)}
    assert done_on == {"gpu-test"}
    assert named() == 1
    assert thread.call(threading.current_thread).daemon


def test_work_is_done_in_order_and_each_caller_has_its_own_result(thread):
    order: list[int] = []
    results: dict[int, int] = {}

    def work(number: int) -> int:
        order.append(number)
        return number * number

    def caller(number: int) -> None:
        results[number] = thread.call(lambda: work(number))

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(20)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert results == {number: number * number for number in range(20)}
    assert sorted(order) == list(range(20))


def test_an_error_is_raised_where_the_work_came_from_and_the_next_work_is_done(thread):
    def fail():
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        thread.call(fail)
    assert thread.call(lambda: 1) == 1


def test_what_no_except_exception_catches_does_not_end_it(thread):
    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        thread.call(leave)
    assert thread.call(lambda: 1) == 1


def test_work_of_the_thread_itself_is_done_at_once(thread):
    assert thread.call(lambda: thread.call(lambda: "inner")) == "inner"


def test_nobody_waits_for_what_is_posted_and_its_error_is_logged(thread):
    go, done = threading.Event(), threading.Event()
    thread.post(lambda: go.wait(60))
    with capture_logs() as logs:
        thread.post(lambda: 1 / 0)
        thread.post(done.set)
        go.set()
        assert done.wait(60)
    assert [log["event"] for log in logs] == ["device_work_failed"]


def test_work_that_does_not_end_is_trouble_and_so_is_a_dead_thread():
    now = 100.0
    thread = DeviceThread("gpu-test", lambda: now)
    assert thread.trouble(5) is None
    begun, go = threading.Event(), threading.Event()
    thread.post(lambda: begun.set() or go.wait(60))
    assert begun.wait(60)
    assert thread.trouble(5) is None
    now = 106.0
    assert thread.trouble(5) == "thread gpu-test has been busy with one task for 6 s"
    go.set()
    thread.call(lambda: None)
    assert thread.trouble(5) is None
    thread._tasks.put(None)  # no way to kill it from outside
    assert thread._thread is not None
    thread._thread.join()
    assert thread.trouble(5) == "thread gpu-test is dead"


def test_its_end_comes_after_what_it_was_handed(thread):
    go, done = threading.Event(), []
    thread.post(lambda: go.wait(60))
    thread.post(lambda: done.append(1))
    assert not thread.close(0), "it is still at work"
    go.set()
    assert thread.close(20)
    assert done == [1]
    assert named() == 0
    assert thread.trouble(5) is None
    with pytest.raises(RuntimeError, match="has ended"):
        thread.call(lambda: None)
    thread.post(lambda: done.append(2))
    assert done == [1]


def test_a_thread_that_never_began_ends(thread):
    assert thread.close(0)


def test_nothing_of_done_or_failed_work_is_kept(thread):
    """While it waits for the next batch, the last one's pixels must be free to go."""

    class Batch:
        pass

    def use(batch: Batch) -> None:
        raise ValueError("no")

    kept = []
    gc.disable()
    try:
        for _ in range(2):
            batch = Batch()
            kept.append(weakref.ref(batch))
            with pytest.raises(ValueError, match="no"):
                thread.call(partial(use, batch))
            del batch
        thread.call(lambda: None)
        assert [each() for each in kept[:1]] == [None]
    finally:
        gc.enable()
