"""TLS contexts: real handshakes, in memory, while files change."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Pair

from service.errors import TlsFilesError
from service.tls import Tls, TlsPaths


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other"), "another CA")


@pytest.fixture
def files(tmp_path, authority) -> Pair:
    """The files that are served, with the first certificate."""
    pair = Pair(tmp_path / "served.pem", tmp_path / "served.key")
    put(authority.issue("first"), pair)
    return pair


def put(pair: Pair, where: Pair) -> None:
    where.cert.write_bytes(pair.cert.read_bytes())
    where.key.write_bytes(pair.key.read_bytes())


def trusting(authority: Authority, own: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority.cert)
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    return context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Return the name in the server's certificate. Raises `ssl.SSLError`."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    for _ in range(10):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    there.write(b"x")
    here.read()  # in TLS 1.3 a client learns only here that it was refused
    certificate: Any = here.getpeercert()
    return str(dict(pair for (pair,) in certificate["subject"])["commonName"])


def test_new_connections_get_the_new_certificate(files, authority):
    tls = Tls(TlsPaths(files.cert, files.key, None))
    listening = tls.context()
    assert handshake(listening, trusting(authority)) == "first"
    put(authority.issue("second"), files)
    assert tls.files.changed()
    tls.reload()
    assert handshake(listening, trusting(authority)) == "second"


def test_a_pair_that_does_not_belong_together_leaves_the_old(files, authority):
    tls = Tls(TlsPaths(files.cert, files.key, None))
    listening = tls.context()
    files.cert.write_bytes(authority.issue("second").cert.read_bytes())
    tls.reload()
    assert handshake(listening, trusting(authority)) == "first"
    files.cert.write_text("half a certifica")
    tls.reload()
    files.cert.unlink()
    tls.reload()
    assert handshake(listening, trusting(authority)) == "first"


def test_clients_must_have_a_certificate_of_an_authority_that_is_in_force(files, authority, other):
    ca = files.cert.with_name("clients.pem")
    ca.write_bytes(authority.cert.read_bytes())
    tls = Tls(TlsPaths(files.cert, files.key, ca))
    listening = tls.context()
    ours, theirs = authority.issue("a client"), other.issue("a stranger")
    assert handshake(listening, trusting(authority, ours)) == "first"
    for context in (trusting(authority), trusting(authority, theirs)):
        with pytest.raises(ssl.SSLError):
            handshake(listening, context)
    ca.write_bytes(other.cert.read_bytes())
    tls.reload()
    assert handshake(listening, trusting(authority, theirs)) == "first"
    with pytest.raises(ssl.SSLError):
        handshake(listening, trusting(authority, ours))


def test_the_port_for_metrics_does_not_ask_clients(files, authority):
    tls = Tls(TlsPaths(files.cert, files.key, authority.cert))
    assert handshake(tls.context(asks_clients=False), trusting(authority)) == "first"


def test_old_versions_are_refused(files, authority):
    client = trusting(authority)
    with pytest.warns(DeprecationWarning, match="TLSv1 is"):
        client.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is"):
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        handshake(Tls(TlsPaths(files.cert, files.key, None)).context(), client)


def test_a_file_may_have_both_and_what_can_not_be_used_is_one_line(files, authority, tmp_path):
    both = tmp_path / "both.pem"
    both.write_bytes(files.cert.read_bytes() + files.key.read_bytes())
    Tls(TlsPaths(both, None, None))
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for paths, said in (
        (TlsPaths(tmp_path / "none.pem", None, None), r"none\.pem: No such file"),
        (TlsPaths(text, None, None), r"text\.pem: can't be used"),
        (TlsPaths(files.cert, authority.issue("x").key, None), "key values mismatch"),
        (TlsPaths(both, None, text), r"text\.pem: can't be used"),
        (TlsPaths(both, None, Path("none.pem")), r"none\.pem: No such file"),
    ):
        with pytest.raises(TlsFilesError, match=said) as caught:
            Tls(paths)
        assert "\n" not in str(caught.value)
