"""HTTP/1.1 on the wire: what is a request, what is refused, and that nothing is smuggled."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Coroutine
from typing import Any

import h11
import pytest
import structlog
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from service.http.http1 import http1_protocol

OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"

Chunks = list[bytes]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what was understood."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    answer = json.dumps([scope["method"], scope["path"], body.decode("latin-1")]).encode()
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


async def slow_echo(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.05)
    await echo(scope, receive, send)


def nobody(code: str) -> None:
    """Count no refusals."""


async def talk(
    chunks: Chunks,
    *,
    head_timeout_s: float = 30,
    write_timeout_s: float = 30,
    app: Any = echo,
    refused: Callable[[str], None] = nobody,
    **config_: Any,
) -> bytes:
    """Send chunks over one connection, say that it was all, and give all that comes back."""
    protocol: Any = http1_protocol(head_timeout_s, write_timeout_s, refused)
    config = uvicorn.Config(app, http=protocol, ws="none", log_config=None, **config_)
    state = ServerState()
    config.load()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: protocol(config=config, server_state=state, app_state={}),
        "127.0.0.1",
        0,
    )
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    answer = b""
    try:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(0)
        answer = await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.close()
        server.close()
        if state.tasks:
            await asyncio.wait(state.tasks, timeout=60)
    return answer


def answers(data: bytes, count: int) -> list[tuple[int, Any]]:
    """Read answers with h11, which is as strict as they come."""
    connection = h11.Connection(h11.CLIENT)
    connection.receive_data(data)
    connection.receive_data(b"")
    found = []
    for _ in range(count):
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        connection.send(h11.EndOfMessage())
        status, body = 0, b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
        found.append((status, json.loads(body)))
        if connection.our_state is not h11.DONE:
            break
        connection.start_next_cycle()
    assert not connection.trailing_data[0], "more than was asked for"
    return found


def run(talking: Callable[..., Coroutine[Any, Any, bytes]], *args: Any, **kwargs: Any) -> bytes:
    return asyncio.run(asyncio.wait_for(talking(*args, **kwargs), 60))


def post(path: str, body: bytes, *, chunked: bool = False, offer: bool = False) -> bytes:
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    if chunked:
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    head = b"POST %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path.encode(), length)
    return head + (OFFER if offer else b"") + b"\r\n" + body


BROKEN_BODY = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTH_2 = (b"content-length", b"2")
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

requests = st.tuples(
    st.sampled_from(["/a", "/b%20c"]),
    st.one_of(st.binary(max_size=40), st.just(SMUGGLED), st.just(b"0\r\n\r\n" + SMUGGLED)),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=150)
@given(st.lists(requests, max_size=3), st.data())
def test_requests_are_the_same_however_the_bytes_are_cut(sent, data):
    """In any number of pieces, pipelined or not, with an offer to upgrade or without."""
    stream = LAST
    for path, body, chunked, offer in reversed(sent):
        stream = post(path, body, chunked=chunked, offer=offer) + stream
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    expected = [
        (200, ["POST", path.replace("%20", " "), body.decode("latin-1")])
        for path, body, _, _ in sent
    ]
    got = answers(run(talk, chunks), len(sent) + 1)
    assert got == [*expected, (200, ["GET", "/last", ""])]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nBad Name: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nFolded: y\r\n z\r\n\r\n", 400),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\n" + SMUGGLED,
            400,
        ),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", 431),
    ],
)
def test_what_is_no_proper_request_is_refused_and_nothing_after_it_is_read(request_bytes, status):
    answer = run(talk, [request_bytes + SMUGGLED])
    [(got, problem)] = answers(answer, 1)
    assert (got, problem["status"]) == (status, status)
    assert b"connection: close" in answer.lower()
    assert problem["code"] in {"malformed_request", "headers_too_large"}


async def headers_echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the headers, once the body is read."""
    while (await receive())["more_body"]:
        pass
    pairs = [f"{name.decode()}: {value.decode()}" for name, value in scope["headers"]]
    answer = json.dumps(pairs).encode()
    length = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": answer})


@pytest.mark.parametrize("offer", [b"", OFFER])
@pytest.mark.parametrize("space", [b" ", b"\t", b" \t  "])
def test_white_space_around_a_header_is_no_part_of_it(space, offer):
    head = b"GET / HTTP/1.1\r\nHost: x\r\nX-A:%b5 0%b\r\nX-B:%b\r\n%b\r\n"
    answer = run(talk, [head % (space, space, space, offer), LAST], app=headers_echo)
    assert answers(answer, 2)[0][1][:3] == ["host: x", "x-a: 5 0", "x-b: "]


def test_a_coding_and_an_expectation_may_have_a_space_behind_them():
    head = (
        b"POST / HTTP/1.1\r\nHost: x \r\nTransfer-Encoding: chunked \r\n"
        b"Expect: 100-continue \r\nConnection: close \r\n\r\n"
    )
    answer = run(talk, [head, b"2\r\nab\r\n0\r\n\r\n"])
    went_on, final = answer.split(b"\r\n\r\n", 1)
    assert went_on == b"HTTP/1.1 100 Continue"
    assert answers(final, 1) == [(200, ["POST", "/", "ab"])]


@pytest.mark.parametrize("offer", [b"", OFFER])
def test_an_expectation_of_http_1_0_is_passed_over(offer):
    """Such a client knows no "100 Continue", and would take it for the answer."""
    head = b"POST /a HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n%b\r\n" % offer
    answer = run(talk, [head, b"ab"])
    assert answers(answer, 1) == [(200, ["POST", "/a", "ab"])]
    [(_, names)] = answers(run(talk, [head, b"ab"], app=headers_echo), 1)
    assert not any(name.startswith("expect") for name in names)


HOSTS = [
    b"", b"x", b"x:", b"x:8000", b"my_service.ns:80", b"127.0.0.1:1", b"[::1]", b"[::1]:8000",
    b"[::ffff:1.2.3.4]", b"[fe80::1%25eth0]:80", b"[v1.a:b]", b"b%C3%BCcher.example",
    b"a!$&'()*+,;=~-.b", b"xn--bcher-kva.example.",
]  # fmt: skip
NO_HOSTS = [
    b"a b", b"a/b", b'"x"', b"[::1", b"::1", b"x:abc", b"<script>", b"a@b", b"x:1:2", b"[]", b"[x]",
    b"a\\b", b"a%zz", b"a?b", b"a#b", b"[::1]x", "b\u00fccher".encode(), b"x, y", b":80 ,x",
    b"%2", b"http://x",
]  # fmt: skip


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_host_is_a_name_or_an_address_and_maybe_a_port(host, version):
    request = b"GET /a HTTP/%b\r\nHost: %b\r\nConnection: close\r\n\r\n" % (version, host)
    assert answers(run(talk, [request]), 1) == [(200, ["GET", "/a", ""])]


@pytest.mark.parametrize("offer", [b"", OFFER])
@pytest.mark.parametrize("host", NO_HOSTS)
def test_what_is_no_host_is_refused_by_its_value(host, offer):
    """Links, caches and logs would be made of it (RFC 9112, section 3.2)."""
    request = b"GET /a HTTP/1.1\r\nHost: %b\r\n%b\r\n" % (host, offer)
    [(status, problem)] = answers(run(talk, [request + SMUGGLED]), 1)
    assert (status, problem["code"]) == (400, "malformed_request")
    assert problem["detail"].startswith(f"Host is {host.decode()!r}; ")


def test_a_host_without_end_is_judged_at_once_and_cut_in_the_message():
    """A pattern that tries again and again would take for ever."""
    request = b"GET /a HTTP/1.1\r\nHost: %b/\r\n\r\n" % (b"%41a" * 15_000)
    [(status, problem)] = answers(run(talk, [request]), 1)
    assert status == 400
    assert len(problem["detail"]) < 250


@pytest.mark.parametrize("method", [b"GET", b"POST", b"HEAD", b"DELETE"])
@pytest.mark.parametrize("target", [b"*", b"*?a=1"])
def test_an_asterisk_is_a_target_for_options_only(method, target):
    """RFC 9112, section 3.2.4."""
    answer = run(talk, [b"%b %b HTTP/1.1\r\nHost: x\r\n\r\n" % (method, target)])
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["detail"] == "the target * is only for OPTIONS"


@pytest.mark.parametrize("offer", [b"", OFFER])
@pytest.mark.parametrize("start", [b"", b"http://x"])
@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1%2Fa", "/v1%2Fa"),
        (b"/v1%2fa%20b", "/v1%2fa b"),
        (b"/v1%5Ca%5cb", "/v1%5Ca%5cb"),
        (b"/%76%31/%C3%BC", "/v1/\u00fc"),
        (b"/a%252Fb", "/a%2Fb"),
        (b"/a%25%32Fb", "/a%2Fb"),
        (b"/a%2", "/a%2"),
    ],
)
def test_an_encoded_separator_in_a_path_separates_nothing(target, path, start, offer):
    """A proxy that guards /v1/ has let it pass as something else (RFC 3986, section 2.2)."""
    request = b"GET %b%b?q=%%2F HTTP/1.1\r\nHost: x\r\n%b\r\n" % (start, target, offer)
    assert answers(run(talk, [request, LAST]), 2)[0] == (200, ["GET", path, ""])


@pytest.mark.parametrize("offer", [b"", OFFER])
@pytest.mark.parametrize("size", [b"2 ", b"2  \t", b"002   ", b"2 ;a=b"])
def test_spaces_behind_a_chunks_size_are_passed_over(size, offer):
    """Some clients fill sizes up to a fixed width."""
    head = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n%b\r\n" % offer
    answer = run(talk, [head + size + b"\r\nab\r\n0  \r\n\r\n", LAST])
    assert answers(answer, 2) == [(200, ["POST", "/a", "ab"]), (200, ["GET", "/last", ""])]


@pytest.mark.parametrize("offer", [b"", b"Upgrade: h2c\r\n"])
def test_data_after_a_last_request_is_dropped(offer):
    """With an offer to upgrade or without."""
    connection = b"close, Upgrade" if offer else b"close"
    head = b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: %b\r\n%b\r\n" % (connection, offer)
    assert answers(run(talk, [head + SMUGGLED], app=slow_echo), 1) == [(200, ["GET", "/a", ""])]


def test_headers_that_never_end_are_refused_by_size():
    answer = run(talk, [b"GET / HTTP/1.1\r\nHost: x\r\nLong: ", *[b"x" * 8192] * 10])
    assert answers(answer, 1)[0][1]["code"] == "headers_too_large"


@pytest.mark.parametrize("piece", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n"])
def test_headers_that_never_end_are_refused_by_time(piece):
    answer = run(talk, [piece], head_timeout_s=0.05)
    assert answers(answer, 1)[0][1]["code"] == "headers_timeout"


def test_the_time_limit_of_headers_leaves_the_body_and_later_requests_alone():
    body = post("/a", b"body")
    assert run(talk, [body[:-2], body[-2:], LAST], head_timeout_s=0.05).count(b"200 OK") == 2


def test_few_requests_of_a_connection_wait_for_their_answers():
    """Each costs more here than the bytes that it takes to send; the first ones are answered."""
    counted: list[str] = []
    sent = [b"".join(post(f"/{n}", b"") for n in range(5000))]
    with structlog.testing.capture_logs() as logs:
        answer = run(talk, sent, app=slow_echo, refused=counted.append)
    found = answers(answer, 16)
    assert found == [(200, ["POST", f"/{n}", ""]) for n in range(16)]
    assert counted == [log["code"] for log in logs] == ["malformed_request"]


def test_a_malformed_request_does_not_cut_into_an_answer_that_is_under_way():
    """The first one is answered; only then the connection goes, without a word to the second."""
    answer = run(talk, [post("/a", b"1"), b"nonsense\r\n\r\n"], app=slow_echo)
    assert answers(answer, 1) == [(200, ["POST", "/a", "1"])]


def test_all_good_requests_before_a_malformed_one_are_answered():
    answer = run(talk, [post("/a", b"1"), post("/b", b"2"), b"nonsense\r\n\r\n"], app=slow_echo)
    assert answers(answer, 2) == [(200, ["POST", "/a", "1"]), (200, ["POST", "/b", "2"])]


def test_a_body_that_breaks_off_its_coding_is_refused_though_the_application_waits():
    assert answers(run(talk, [BROKEN_BODY, b"zz\r\n"]), 1)[0][1]["code"] == "malformed_request"


def test_requests_before_one_whose_body_breaks_off_are_answered():
    """If it is read with them; else later, and then it hears why it is refused."""
    answer = run(talk, [post("/a", b"1") + BROKEN_BODY + b"zz\r\n"], app=slow_echo)
    assert answers(answer, 1) == [(200, ["POST", "/a", "1"])]
    answer = run(talk, [post("/a", b"1") + BROKEN_BODY, b"zz\r\n"], app=slow_echo)
    first, *later = answers(answer, answer.count(b"HTTP/1.1 "))
    assert first == (200, ["POST", "/a", "1"])
    assert [status for status, _ in later] in ([], [400])


def test_what_is_refused_is_answered_once_whatever_the_application_does_then(caplog):
    """Its own answer goes nowhere, and is no error."""

    async def at_its_deadline(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.05)
        await send({"type": "http.response.start", "status": 504, "headers": []})
        await send({"type": "http.response.body", "body": b"late"})

    answer = run(talk, [BROKEN_BODY, b"zz\r\n"], app=at_its_deadline)
    assert answers(answer, 1)[0][1]["code"] == "malformed_request"
    assert caplog.records == []


@pytest.mark.parametrize("trailer", [[b"a:b\r\n" * 2000] * 9, [b"a: ", *[b"x" * 8192] * 10]])
def test_trailers_are_limited_as_headers_are(trailer):
    """In number and in size; nothing else counts them."""
    start = post("/a", b"x", chunked=True)[:-2]
    assert answers(run(talk, [start, *trailer]), 1)[0][1]["code"] == "headers_too_large"


def test_a_trailer_is_no_header():
    """A proxy that filters headers has not seen it (RFC 9110, section 6.5.1)."""
    body = post("/a", b"x", chunked=True)[:-2] + b"X-Request-Priority: low\r\n\r\n"
    got = answers(run(talk, [body, LAST], app=headers_echo), 2)
    assert got[0] == (200, ["host: x", "transfer-encoding: chunked"])


def test_an_answer_before_the_body_is_there_ends_the_connection():
    """What still comes of the body would be taken for the next request, or waited for for ever."""

    async def hasty(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [LENGTH_2]})
        await send({"type": "http.response.body", "body": b"{}"})

    answer = run(
        talk, [b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n", b"x"], app=hasty
    )
    assert answers(answer, 1) == [(200, {})]


def test_a_refusal_is_counted_and_its_id_is_in_header_body_and_log():
    counted: list[str] = []
    with structlog.testing.capture_logs() as logs:
        answer = run(talk, [b"hello\r\n\r\n"], refused=counted.append)
    [(_, problem)] = answers(answer, 1)
    assert counted == ["malformed_request"]
    assert f"x-request-id: {problem['request_id']}".encode() in answer
    assert [(log["request_id"], log["code"]) for log in logs] == [
        (problem["request_id"], "malformed_request")
    ]


def test_a_target_that_is_no_path_is_the_clients_error():
    with structlog.testing.capture_logs() as logs:
        answer = run(talk, ["GET /\u00e9 HTTP/1.1\r\nHost: x\r\n\r\n".encode()])
    assert answers(answer, 1)[0][0] == 400
    assert all(log["event"] == "request" for log in logs)


@pytest.mark.parametrize("offer", [b"", b"Connection: Upgrade\r\nUpgrade: websocket\r\n"])
@pytest.mark.parametrize(
    "target", [b"http://x:99999999/", b"http://[x/", b"http://a@b@c/", b"http://"]
)
def test_a_target_that_cant_be_read_is_no_defect_with_an_offer_to_upgrade_or_without(target, offer):
    with structlog.testing.capture_logs() as logs:
        answer = run(talk, [b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (target, offer)])
    [(status, problem)] = answers(answer, 1)
    assert (status, problem["detail"]) == (400, "the request's target is not a path")
    assert [(log["event"], log["log_level"]) for log in logs] == [("request", "info")]


@pytest.mark.parametrize("offer", [b"", OFFER])
@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"http://x", "/"),
        (b"HTTP://x:8000", "/"),
        (b"http://x?a=1", "/"),
        (b"http://x/", "/"),
        (b"http://x/a?b=1", "/a"),
        (b"*", "*"),
    ],
)
def test_an_absolute_target_is_read_and_its_empty_path_is_the_root(target, path, offer):
    """As proxies send it (RFC 9110, section 4.2.3)."""
    answer = run(talk, [b"OPTIONS %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (target, offer), LAST])
    assert answers(answer, 2)[0] == (200, ["OPTIONS", path, ""])


def test_the_query_of_a_target_without_a_path_is_kept():
    async def query(scope: Any, receive: Any, send: Any) -> None:
        answer = json.dumps(scope["query_string"].decode()).encode()
        length = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": answer})

    request = b"GET http://x?a=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert answers(run(talk, [request], app=query), 1) == [(200, "a=1")]


@pytest.mark.parametrize("offer", [b"", OFFER])
@pytest.mark.parametrize("later", [True, False])
def test_a_broken_body_that_was_to_be_asked_for_is_refused_once(offer, later, caplog):
    """No "100 Continue" follows the refusal, which would be an error in the log."""
    head = BROKEN_BODY[:-2] + b"Expect: 100-continue\r\n" + offer + b"\r\n"
    answer = run(talk, [head, b"zz\r\n"] if later else [head + b"zz\r\n"])
    final = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert answers(final, 1)[0][1]["code"] == "malformed_request"
    assert caplog.records == []


async def large(scope: Any, receive: Any, send: Any) -> None:
    """Answer with more than the kernel takes."""
    length = [(b"content-length", b"50000000")]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": bytes(50_000_000)})


def test_a_client_that_does_not_read_its_answer_is_dropped():
    async def ask_and_not_read() -> bytes:
        protocol: Any = http1_protocol(30, 0.05, nobody)
        config = uvicorn.Config(large, http=protocol, ws="none", log_config=None)
        config.load()
        ended = asyncio.Event()

        class Watched(config.http_protocol_class.func):  # type: ignore[name-defined, misc]
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                ended.set()

        made = functools.partial(Watched, *protocol.args, config=config, app_state={})
        server = await asyncio.get_running_loop().create_server(
            lambda: made(server_state=ServerState()), "127.0.0.1", 0
        )
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=1)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await ended.wait()
        begun = await reader.readexactly(12)
        writer.close()
        server.close()
        return begun

    with structlog.testing.capture_logs() as logs:
        assert run(ask_and_not_read) == b"HTTP/1.1 200"
    [log] = logs
    assert log["event"] == "client_dropped"
    assert 0 < log["bytes_left"] < 50_000_000


def test_head_and_body_of_an_answer_are_sent_together():
    """One packet, so that the client wakes once."""

    class Transport(asyncio.Transport):
        def __init__(self) -> None:
            super().__init__()
            self.written: list[bytes] = []

        def write(self, data: Any) -> None:
            self.written.append(bytes(data))

        def is_closing(self) -> bool:
            return False

        def get_extra_info(self, name: str, default: Any = None) -> Any:
            return default

        def close(self) -> None:
            pass

        def resume_reading(self) -> None:
            pass

        pause_reading = resume_reading

        def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None:
            pass

    async def exchange() -> list[bytes]:
        protocol_class: Any = http1_protocol(30, 30, nobody)
        config = uvicorn.Config(echo, http=protocol_class, ws="none", log_config=None)
        config.load()
        state, transport = ServerState(), Transport()
        protocol = protocol_class(config=config, server_state=state, app_state={})
        protocol.connection_made(transport)
        protocol.data_received(post("/a", b"x"))
        await asyncio.gather(*state.tasks)
        protocol.connection_lost(None)
        return transport.written

    [written] = asyncio.run(exchange())
    assert written.endswith(b'["POST", "/a", "x"]')
