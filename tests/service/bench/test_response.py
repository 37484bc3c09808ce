"""Responses are read whole, whatever pieces they come in."""

from __future__ import annotations

import gc
import weakref

import h11
import pytest

from service.bench.response import Response, ResponseReader

PLAIN = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nSERVER-TIMING: infer;dur=1 \r\n"
    b"content-length: 4\r\n\r\n\r\n\r\n"
)
CHUNKED = (
    b"HTTP/1.1 503 Busy\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    b"A;x=y\r\n0123456789\r\n1\r\n!\r\n0\r\n\r\n"
)
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN
OLD = b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"
EVERY_KIND = [PLAIN, CHUNKED, EMPTY, CONTINUED, OLD]


def by_h11(data: bytes) -> tuple[int, bytes]:
    """Status and body as a full HTTP implementation reads them."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "test")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    status, body = 0, b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
    return status, body


@pytest.mark.parametrize("data", EVERY_KIND)
def test_a_response_is_what_h11_reads(data):
    response = ResponseReader().feed(data)
    assert response is not None
    assert (response.status, response.body) == by_h11(data)


def test_the_headers_that_matter_are_kept():
    assert ResponseReader().feed(PLAIN) == Response(200, b"\r\n\r\n", b"infer;dur=1", True)
    kept = [response for data in EVERY_KIND if (response := ResponseReader().feed(data))]
    assert [response.keep_alive for response in kept] == [True, False, True, True, False]


@pytest.mark.parametrize("data", EVERY_KIND)
def test_pieces_give_the_same_as_the_whole(data):
    whole = ResponseReader().feed(data)
    for cut in range(1, len(data)):
        reader = ResponseReader()
        assert reader.feed(data[:cut]) is None
        assert reader.feed(data[cut:]) == whole
    reader = ResponseReader()
    assert [reader.feed(data[i : i + 1]) for i in range(len(data))][-1] == whole


def test_one_reader_reads_one_response_after_another():
    reader = ResponseReader()
    kept = [data for data in EVERY_KIND if b"close" not in data]
    assert [reader.feed(data) for data in kept] == [ResponseReader().feed(data) for data in kept]


def test_nothing_comes_after_a_response_that_closes():
    reader = ResponseReader()
    assert reader.feed(CHUNKED) is not None
    with pytest.raises(ValueError, match="response"):
        reader.feed(PLAIN)


def test_trailers_are_passed_over():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailed = head + b"1\r\n!\r\n0\r\nServer-Timing: x\r\n\r\n"
    assert ResponseReader().feed(trailed) == Response(200, b"!", b"", True)


def test_a_closed_reader_is_freed_at_once():
    """While the load runs, nobody looks for garbage."""
    reader = ResponseReader()
    assert reader.feed(PLAIN) is not None
    gone = weakref.ref(reader)
    gc.disable()
    try:
        reader.close()
        del reader
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "data",
    [
        b"220 smtp ready\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsize\r\n",
        *(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size + b"\r\n0123456789\r\n"
            for size in (b"-6", b"+a", b" a", b"0xa", b"0_a", b"", b";x", b"f" * 17)
        ),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        PLAIN + b"more",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
    ],
)
def test_what_is_no_response_of_known_end_is_refused(data):
    with pytest.raises(ValueError, match=r"response|header|chunk"):
        ResponseReader().feed(data)


def test_any_number_of_interim_responses_may_come_before_the_answer():
    interim = b"HTTP/1.1 103 Early Hints\r\nServer-Timing: none\r\nX: y\r\n\r\n"
    assert ResponseReader().feed(interim * 3000 + OLD) == ResponseReader().feed(OLD)
