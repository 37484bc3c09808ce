"""Load goes to this machine alone."""

from __future__ import annotations

import pytest

from service.bench.errors import TargetError
from service.bench.target import classify_path, parse_target


@pytest.mark.parametrize(
    ("url", "address", "port"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1", 8000),
        ("http://127.1.2.3:81/", "127.1.2.3", 81),
        ("http://127.0.0.1", "127.0.0.1", 80),
        ("http://127.0.0.1:0", "127.0.0.1", 0),
        ("http://[::1]:8000", "::1", 8000),
    ],
)
def test_loopback_addresses_are_accepted(url, address, port):
    target = parse_target(url)
    assert (target.address, target.port) == (address, port)


def test_localhost_is_accepted_as_the_address_that_it_stands_for():
    assert parse_target("http://localhost:8000").address in {"127.0.0.1", "::1"}


@pytest.mark.parametrize(
    "host",
    [
        "192.0.2.1",
        "8.8.8.8",
        "0.0.0.0",  # noqa: S104 - refused, not bound
        "[2001:db8::1]",
        "[::]",
        "[::ffff:192.0.2.1]",
        "127.0.0.1@192.0.2.1",
    ],
)
def test_every_other_address_is_refused(host):
    with pytest.raises(TargetError, match="is not this machine's loopback") as refused:
        parse_target(f"http://{host}:8000")
    assert "\n" not in str(refused.value)


def test_a_name_is_refused_if_any_of_its_addresses_is_elsewhere(monkeypatch):
    """It could be resolved to the other one when the load begins."""
    found = [(0, 0, 0, "", ("127.0.0.1", 80)), (0, 0, 0, "", ("192.0.2.7", 80))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: found)
    with pytest.raises(TargetError, match="is not this machine's loopback"):
        parse_target("http://two-faced:8000")


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8000", "https://127.0.0.1", "http://", "http://127.0.0.1/x", "ftp://::1",
            "http://127.0.0.1:port", "http://127.0.0.1/?a=1"],
)  # fmt: skip
def test_what_is_no_plain_http_address_is_refused(url):
    with pytest.raises(TargetError, match="--url"):
        parse_target(url)


def test_requests_are_whole_messages():
    target = parse_target("http://127.0.0.1:8000")
    request = target.post("/v1/classify", b"image", Content_Type="image/png")
    head, _, body = request.partition(b"\r\n\r\n")
    assert body == b"image"
    assert head.split(b"\r\n") == [
        b"POST /v1/classify HTTP/1.1", b"Host: 127.0.0.1:8000", b"Content-Type: image/png",
        b"Content-Length: 5",
    ]  # fmt: skip


def test_a_models_name_is_quoted():
    assert classify_path("a b&c", 3) == "/v1/classify?top_k=3&model=a+b%26c"
    assert classify_path(None, 1) == "/v1/classify?top_k=1"
    assert classify_path(None, 1, independent=True) == "/v1/classify?top_k=1&threshold=0"
