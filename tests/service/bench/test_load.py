"""The client and its pool, against servers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import uvloop

from service.bench.load import OK, WRONG_ANSWER, Load, run_closed, run_open
from service.bench.pool import Pool
from service.bench.target import Target
from service.bench.timer import PreciseTimer
from service.bench.wire import Answer, SerialClient

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer-Timing: infer;dur=1\r\n\r\nhi"
CLOSING = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def answering(*answers: bytes | None) -> Handler:
    """Give a handler that answers each request of a connection in turn; None closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        turn = 0
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                answer = answers[turn % len(answers)]
                turn += 1
                if answer is None:
                    return
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return handle


def with_server(handler: Handler, use: Callable[[Target], Awaitable[object]]) -> None:
    async def main() -> None:
        server = await asyncio.start_server(handler, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            await use(Target("127.0.0.1", port, "test"))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def by_status(image: int, answer: Answer) -> str:
    return OK if answer.status == 200 else f"http_{answer.status}"


def load_for(target: Target, connections: int = 4, timeout_s: float = 5.0) -> Load:
    return Load(
        target, [target.get("/")], by_status, connections=connections, timeout_s=timeout_s, seed=0
    )


async def closed_loop(load: Load, clients: int, samples: int) -> None:
    """Run a closed loop for so many samples, however long they take."""
    start = time.perf_counter()
    loop = asyncio.create_task(run_closed(load, clients, start, start + 600))
    while len(load.samples) < samples:  # noqa: ASYNC110 - a load has no event for it
        await asyncio.sleep(0)
    loop.cancel()
    load.on_done = lambda: None
    await load.drain()
    await load.close()


def kinds_of(handler: Handler, arrivals: int = 20, **options: Any) -> Counter[str]:
    """What becomes of so many arrivals, all at once."""
    found: Counter[str] = Counter()

    async def use(target: Target) -> None:
        load = load_for(target, **options)
        await run_open(load, np.zeros(arrivals), time.perf_counter())
        await load.close()
        found.update(sample.kind for sample in load.samples)

    with_server(handler, use)
    assert found.total() == arrivals, "an arrival was lost, or counted twice"
    return found


def test_answers_of_known_length_and_in_chunks_are_read():
    assert kinds_of(answering(ANSWER, CHUNKED)) == {OK: 20}


def test_a_connection_that_the_server_closes_after_its_answer_is_replaced():
    assert kinds_of(answering(CLOSING)) == {"http_503": 20}
    assert set(kinds_of(answering(ANSWER, CLOSING))) == {OK, "http_503"}


def test_a_connection_that_breaks_before_its_answer_is_an_error():
    assert kinds_of(answering(None)) == {"connection_lost": 20}


def test_what_is_no_http_is_an_error():
    assert kinds_of(answering(b"220 smtp ready\r\n\r\n")) == {"bad_response": 20}


def test_an_answer_that_does_not_come_is_a_timeout_also_of_those_that_wait_for_it():
    """Four are sent; what waits for their connections is given up when its own time is over."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    assert kinds_of(silent, timeout_s=0.2) == {"timeout": 20}


def test_a_server_that_is_gone_fails_every_arrival():
    found: Counter[str] = Counter()

    async def use(target: Target) -> None:
        gone = Target(target.address, 1, "gone")  # nothing listens on port 1
        load = load_for(gone)
        start = time.perf_counter()
        await run_closed(load, 3, start, start + 0.3)
        await load.close()
        found.update(sample.kind for sample in load.samples)

    with_server(answering(ANSWER), use)
    assert set(found) == {"connect_failed"}
    assert found.total() >= 3


def test_a_closed_loop_never_has_more_requests_under_way_than_clients():
    open_now, most = 0, 0

    async def counting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await answering(ANSWER)(reader, writer)
        open_now -= 1

    async def use(target: Target) -> None:
        load = load_for(target, connections=3)
        await closed_loop(load, 3, samples=10)
        assert {sample.kind for sample in load.samples} == {OK}

    with_server(counting, use)
    assert most == 3


def test_an_arrival_that_waits_for_a_connection_keeps_its_scheduled_time():
    """The wait is part of its latency, and told as the generator's lateness."""

    async def use(target: Target) -> None:
        load = load_for(target, connections=1)
        start = time.perf_counter()
        await run_open(load, np.zeros(5), start)
        await load.close()
        assert {sample.scheduled for sample in load.samples} == {start}
        assert all(sample.waited for sample in load.samples)
        sent = [sample.sent for sample in load.samples]
        assert all(b >= a.ended for a, b in zip(load.samples, sent[1:], strict=False))

    with_server(answering(ANSWER), use)


def test_the_serial_client_opens_a_new_connection_where_the_old_is_closed():
    async def use(target: Target) -> None:
        client = SerialClient(target, 5)
        statuses = [(await client.exchange(target.get("/"))).status for _ in range(3)]
        await client.close()
        assert statuses == [503, 503, 503]

    with_server(answering(CLOSING), use)


def test_the_timer_never_goes_off_early():
    async def use(target: Target) -> None:
        with PreciseTimer() as timer:
            for delay in (-1, 0, 1e-5, 0.0004, 0.003):
                at = time.perf_counter() + delay
                await timer.sleep_until(at)
                assert time.perf_counter() >= at

    with_server(answering(ANSWER), use)


def test_an_answer_that_can_not_be_judged_is_wrong_and_its_client_goes_on():
    def judge(image: int, answer: Answer) -> str:
        raise RecursionError

    async def use(target: Target) -> None:
        load = Load(target, [target.get("/")], judge, connections=2, timeout_s=20, seed=0)
        await closed_loop(load, 2, samples=10)
        assert {sample.kind for sample in load.samples} == {WRONG_ANSWER}

    with_server(answering(ANSWER), use)


def test_jobs_that_wait_for_a_connection_get_one_whatever_becomes_of_others():
    ended: asyncio.Queue[int] = asyncio.Queue()

    def end(job: int, answer: Answer) -> None:
        ended.put_nowait(job)
        raise RuntimeError("as if a caller were broken")

    async def use(target: Target) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        pool = Pool(target, 1, 5.0, lambda _: target.get("/"), end)
        for job in range(3):
            pool.submit(job)
        async with asyncio.timeout(60):
            assert [await ended.get() for _ in range(3)] == [0, 1, 2]
        await pool.close()

    with_server(answering(CLOSING), use)


@contextlib.contextmanager
def deaf() -> Iterator[Target]:
    """Gives the address of a listener whose queue is full, as that of a server that is stopped."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(4):
            client = sockets.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        yield Target("127.0.0.1", address[1], "deaf")


def test_a_connection_that_is_never_made_is_an_error_in_its_time():
    async def main(target: Target) -> None:
        load, start = load_for(target, timeout_s=0.2), time.perf_counter()
        async with asyncio.timeout(60):
            await run_open(load, np.zeros(3), start)
            load.arrive(time.perf_counter())  # and one that is given up
            await load.close()
            client = SerialClient(target, 0.2)
            assert (await client.exchange(target.get("/"))).failure == "connect_failed"
            await client.close()
        assert {sample.kind for sample in load.samples} <= {"connect_failed", "timeout"}
        assert len(load.samples) == 3

    with deaf() as target, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(target))
