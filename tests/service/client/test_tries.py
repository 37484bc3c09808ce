"""When calls are tried again, against a server that answers as told; the clock stands still."""

from __future__ import annotations

import asyncio
import random
from email.utils import formatdate

import pytest
from results import best
from scripted import HANG_UP, labels, refusal, scripted

from service.client import AsyncClient, Client
from service.client.answers import retry_after_s
from service.errors import (
    BrokenModelError,
    ClientTimeoutError,
    InferenceError,
    ModelUnavailableError,
    NotAnImageError,
    NotReadyError,
    QueueFullError,
    UnexpectedAnswerError,
    UnreachableError,
)

BUSY = refusal(QueueFullError("full"), Retry_After="2")
IMAGE = b"an image"
NO_MODELS: tuple[int, dict[str, str], bytes] = (200, {}, b'{"models": [], "broken": []}')


class Clock:
    """Moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)


class Largest(random.Random):
    """Draws the largest number of each range."""

    def uniform(self, _: float, b: float) -> float:
        return b


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ask(url: str, clock: Clock, timeout: float = 30) -> str:
    with Client(url, timeout=timeout, draw=Largest(), clock=clock, sleep=clock.sleep) as client:
        return client.classify(IMAGE).best.label


def ask_async(url: str, clock: Clock, timeout: float = 30) -> str:
    async def call() -> str:
        async with AsyncClient(
            url, timeout=timeout, draw=Largest(), clock=clock, sleep=clock.asleep
        ) as client:
            return (await client.classify(IMAGE)).best.label

    return asyncio.run(call())


both = pytest.mark.parametrize("ask", [ask, ask_async])


@both
def test_a_busy_service_is_asked_again_no_earlier_than_it_says(ask, clock):
    with scripted(BUSY, BUSY, labels("red")) as server:
        assert ask(server.url, clock) == "red"
    assert clock.slept == [pytest.approx(2.1), pytest.approx(2.2)]


@both
def test_all_tries_share_one_timeout_and_the_service_learns_what_is_left(ask, clock):
    with scripted(BUSY, labels("red")) as server:
        ask(server.url, clock, 10)
    assert [fields["x-request-timeout-ms"] for _, fields, _ in server.asked] == ["10000", "7900"]


@both
def test_a_try_that_would_be_too_late_is_not_waited_for(ask, clock):
    with scripted(BUSY) as server, pytest.raises(QueueFullError) as caught:
        ask(server.url, clock, 2)
    assert (caught.value.retry_after_s, caught.value.request_id) == (2, "an-id")
    assert (clock.slept, len(server.asked)) == ([], 1)


@both
@pytest.mark.parametrize(
    "passing",
    [
        HANG_UP,
        (502, {}, b"<html>Bad gateway</html>"),
        (503, {}, b""),
        (504, {}, b"{}"),
        (429, {}, b"[]"),
        refusal(NotReadyError("warming")),
        refusal(ModelUnavailableError("lost")),
    ],
)
def test_what_may_pass_is_tried_again(ask, clock, passing):
    with scripted(passing, labels("red")) as server:
        assert ask(server.url, clock) == "red"
    assert len(clock.slept) == 1


@both
@pytest.mark.parametrize(
    ("lasting", "kind"),
    [
        (refusal(NotAnImageError("no")), NotAnImageError),
        (refusal(BrokenModelError("broken")), BrokenModelError),
        ((404, {}, b"<html>"), UnexpectedAnswerError),
        ((400, {}, b'{"code": "from_tomorrow", "detail": "x"}'), UnexpectedAnswerError),
        ((200, {}, b"{}"), UnexpectedAnswerError),
        ((200, {}, b"not JSON"), UnexpectedAnswerError),
        ((200, {}, b'{"model": "m", "version": 1, "results": []}'), UnexpectedAnswerError),
    ],
)
def test_what_lasts_is_raised_at_once(ask, clock, lasting, kind):
    with scripted(lasting) as server, pytest.raises(kind):
        ask(server.url, clock)
    assert len(server.asked) == 1


@both
def test_waits_grow_until_the_time_is_over(ask, clock):
    with scripted(HANG_UP) as server, pytest.raises(UnreachableError):
        ask(server.url, clock, 1)
    assert clock.slept == [pytest.approx(wait) for wait in (0.1, 0.2, 0.4)]


@both
def test_a_clock_that_is_past_the_timeout_ends_the_call(ask, clock):
    class Late(Clock):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds + 100)

    with scripted(BUSY) as server, pytest.raises(ClientTimeoutError, match="timeout of 30 s"):
        ask(server.url, Late())


def test_clients_that_were_refused_together_come_back_one_by_one(clock):
    waits = []
    for seed in range(3):
        one = Clock()
        with scripted(BUSY, labels("red")) as server:
            draw = random.Random(seed)
            with Client(server.url, draw=draw, clock=one, sleep=one.sleep) as client:
                client.classify(IMAGE)
        waits += one.slept
    assert len(set(waits)) == 3
    assert all(2 <= wait <= 2.1 for wait in waits)


def test_only_images_whose_error_may_pass_are_sent_again(clock):
    error = {"code": "model_unavailable", "status": 503, "title": "", "detail": "lost"}
    status, _, body = labels("red", "X", "blue")
    mixed = body.replace(
        b'{"labels": [{"id": "c0", "label": "X", "index": 0, "probability": 0.5}], '
        b'"width": 1, "height": 1}',
        b'{"error": ' + str(error).replace("'", '"').encode() + b"}",
    )
    with scripted(NO_MODELS, (status, {}, mixed), labels("green")) as server:
        with Client(server.url, clock=clock, sleep=clock.sleep) as client:
            found = list(client.classify_many([b"1st", b"2nd", b"3rd"]))
        assert best(found) == ["red", "green", "blue"]
    assert server.asked[-1][2] == b"2nd"


def test_an_image_whose_error_does_not_pass_in_time_keeps_it(clock):
    error = b'{"error": {"code": "model_unavailable", "status": 503, "detail": "lost"}}'
    answer = b'{"model": "m", "version": 1, "results": [%s, %s]}' % (error, error)
    with (
        scripted(NO_MODELS, (200, {}, answer)) as server,
        Client(server.url, timeout=1, draw=Largest(), clock=clock, sleep=clock.sleep) as client,
    ):
        found = list(client.classify_many([b"1st", b"2nd"]))
    assert best(found) == ["model_unavailable"] * 2


@pytest.mark.parametrize("images", [[b"1st"], [b"1st", b"2nd"]])
def test_images_on_which_the_engine_failed_do_not_end_the_others(clock, images):
    failed = refusal(InferenceError("no finite probabilities"))
    with (
        scripted(NO_MODELS, failed) as server,
        Client(server.url, clock=clock, sleep=clock.sleep) as client,
    ):
        assert best(client.classify_many(images)) == ["inference_failed"] * len(images)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3), ("0", 0), ("", None), ("soon", None), ("-1", None), ("1.5", None),
        (formatdate(1000, usegmt=True), 10), (formatdate(900, usegmt=True), 0),
        ("9" * 400, 10**6),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after_s({"retry-after": value}, now=lambda: 990.0) == seconds


def test_a_key_is_sent_with_every_request(clock):
    with scripted(labels("red")) as server, Client(server.url, api_key="a.key") as client:
        client.classify(IMAGE)
    assert server.asked[0][1]["authorization"] == "Bearer a.key"
