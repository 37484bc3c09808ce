"""Identical images in flight: computed once when asked for, and never at another's expense."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from engines import hold
from images import colored, top_label
from waiting import wait_until
from wire import connect, head, read_answer

POST = "/v1/classify"


def admitted(client, count: int) -> None:
    gate = next(iter(client.app.state.runtime.repository)).gate
    wait_until(lambda: gate.admitted == count)


def coalesced(client) -> float:
    name = 'resnet_serve_images_coalesced_total{model="color",version="1"} '
    (line,) = [line for line in client.get("/metrics").text.splitlines() if name in line]
    return float(line.split()[-1])


@pytest.mark.parametrize("coalesce", [True, False])
def test_identical_images_are_computed_once_only_if_asked_for(serve, coalesce):
    client = serve(coalesce=coalesce, runners=1, max_batch=1)
    engine = hold(client)
    engine.open.clear()
    gate = next(iter(client.app.state.runtime.repository)).gate
    told = []
    gate.learn = lambda *times: told.append(times)
    with ThreadPoolExecutor(4) as pool:
        same = [pool.submit(client.post, POST, content=colored("red")) for _ in range(3)]
        other = pool.submit(client.post, POST, content=colored("blue"))
        admitted(client, 4)
        engine.open.set()
        assert [top_label(answer.result()) for answer in same] == ["red"] * 3
        assert top_label(other.result()) == "blue"
    assert len(engine.batches) == (2 if coalesce else 4)
    assert len(told) == len(engine.batches), "who had another's answer tells nothing of its plan"
    assert coalesced(client) == (2 if coalesce else 0)
    assert top_label(client.post(POST, content=colored("red"))) == "red", "it is no cache"
    assert len(engine.batches) == (3 if coalesce else 5)


def test_the_others_are_answered_when_the_first_client_leaves_and_none_when_all_do(serve):
    client = serve(coalesce=True, runners=1, max_batch=1)
    engine = hold(client)
    engine.open.clear()
    body = colored("red")
    request = head(Content_Length=len(body)) + body
    blocker = connect(client.base_url)
    first = colored("green")
    blocker.sendall(head(Content_Length=len(first)) + first)
    assert engine.entered.acquire(timeout=60)
    with connect(client.base_url) as staying:
        with connect(client.base_url) as leaving:
            leaving.sendall(request)
            admitted(client, 2)
            staying.sendall(request)
            admitted(client, 3)
        admitted(client, 2)
        engine.open.set()
        status, answer = read_answer(staying)
    assert (status, b"red" in answer) == (200, True)
    assert read_answer(blocker)[0] == 200
    blocker.close()
    assert coalesced(client) == 1

    engine.open.clear()
    with connect(client.base_url) as blocker:
        blocker.sendall(head(Content_Length=len(first)) + first)
        for _ in range(2):  # the one before, and this one: it holds the runner
            assert engine.entered.acquire(timeout=60)
        with connect(client.base_url) as one, connect(client.base_url) as two:
            one.sendall(request)
            two.sendall(request)
            admitted(client, 3)
        admitted(client, 1)
        engine.open.set()
        assert read_answer(blocker)[0] == 200
    assert len(engine.batches) == 3, "nobody waited for the last two"


def test_an_urgent_image_does_not_wait_for_one_that_has_time(serve):
    """By deadline or priority; the other way round it may join."""
    client = serve(coalesce=True, runners=1, max_batch=1)
    engine = hold(client)
    engine.open.clear()
    patient = {"X-Request-Timeout-Ms": "90000", "X-Request-Priority": "low"}
    with ThreadPoolExecutor(4) as pool:
        blocker = pool.submit(client.post, POST, content=colored("green"))
        assert engine.entered.acquire(timeout=60)
        waiting = [pool.submit(client.post, POST, content=colored("red"), headers=patient)]
        admitted(client, 2)
        waiting.append(pool.submit(client.post, POST, content=colored("red")))
        admitted(client, 3)
        waiting.append(pool.submit(client.post, POST, content=colored("red"), headers=patient))
        admitted(client, 4)
        engine.open.set()
        assert [top_label(answer.result()) for answer in waiting] == ["red"] * 3
        assert blocker.result().status_code == 200
    assert coalesced(client) == 1
    assert len(engine.batches) == 3


def test_those_that_outlive_the_first_share_the_next_computation(serve):
    """The first one's deadline passes in the queue; the others go on, and together."""
    client = serve(coalesce=True, runners=1, max_batch=1)
    engine = hold(client)
    engine.open.clear()
    hurried = {"X-Request-Timeout-Ms": "2000"}  # to be let in also where the machine is busy
    with ThreadPoolExecutor(6) as pool:
        blocker = pool.submit(client.post, POST, content=colored("green"))
        assert engine.entered.acquire(timeout=60)
        first = pool.submit(client.post, POST, content=colored("red"), headers=hurried)
        admitted(client, 2)
        others = [pool.submit(client.post, POST, content=colored("red")) for _ in range(4)]
        assert first.result().status_code == 504
        engine.open.set()
        assert [top_label(answer.result()) for answer in others] == ["red"] * 4
        assert blocker.result().status_code == 200
    assert len(engine.batches) == 2
    assert coalesced(client) == 3


def test_a_bad_image_is_refused_for_all_that_share_it(serve):
    client = serve(coalesce=True)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: client.post(POST, content=b"no image"), range(8)))
    assert [answer.status_code for answer in answers] == [415] * 8
