"""Keys, certificates and the port for metrics of the real program, while files change."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path

import httpx
import pytest
from certificates import Authority
from images import colored, top_label
from process import PROGRAM, client_of, run_to_end, serving
from waiting import PATIENCE_S, wait_until
from wire import connect, read_all

from service.client import Client
from service.errors import UntrustedServerError

RED = colored("red")


def make_key(file: Path, name: str, *flags: str) -> str:
    """Make a key by the program, append its line to the file, and return the key."""
    ended = run_to_end([*PROGRAM, "key", name, *flags])
    assert ended.returncode == 0
    with file.open("a") as lines:
        lines.write(ended.stdout)
    return ended.stderr.split()[-1]


def test_keys_are_taken_from_the_file_when_it_changes(model_folder, tmp_path):
    """Without a signal, and a bad file changes nothing; no key is ever logged."""
    file = tmp_path / "keys"
    first = make_key(file, "first")
    with (
        serving("--models", model_folder, "--api-keys", file, "--log-level", "debug") as server,
        client_of(server) as client,
    ):

        def status(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            return client.post("/v1/classify", content=RED, headers=headers).status_code

        assert status(first) == 200
        second = make_key(file, "second", "--rate", "1000")
        server.wait_for("api_keys_taken")
        assert (status(first), status(second)) == (200, 200)
        file.write_text("nonsense " + first)
        told = server.wait_for("api_keys_not_taken")
        assert "line 1" in str(told["detail"])
        assert (status(first), status(second)) == (200, 200)
        file.write_text("")
        server.wait_for("api_keys_taken")
        assert (status(first), status(second)) == (401, 401)
        server.signal()
        assert server.exit_status() == 0
    log = str(server.events)
    assert "'key': 'second'" in log
    for key in (first, second):
        assert key.partition(".")[2] not in log


def test_a_bad_key_file_stops_the_start_with_one_line(model_folder, tmp_path):
    file = tmp_path / "keys"
    file.write_text("a b c\n")
    ended = run_to_end(
        [*PROGRAM, "serve", "--models", str(model_folder), "--api-keys", str(file), "--port", "0"]
    )
    assert ended.returncode == 1
    assert f"error: {file}, line 1: " in ended.stderr


def trusting(authority: Authority, own: object = None) -> httpx.Client:
    context = ssl.create_default_context(cafile=authority.cert)
    if own is not None:
        context.load_cert_chain(own.cert, own.key)  # type: ignore[attr-defined]
    return httpx.Client(verify=context, timeout=PATIENCE_S)


def test_certificates_are_replaced_under_open_connections(model_folder, tmp_path):
    authority = Authority(tmp_path / "ca")
    first, second = authority.issue("first"), authority.issue("second")
    files = tmp_path / "served.pem", tmp_path / "served.key"
    files[0].write_bytes(first.cert.read_bytes())
    files[1].write_bytes(first.key.read_bytes())

    with serving(
        "--models", model_folder, "--tls-cert", files[0], "--tls-key", files[1]
    ) as server, trusting(authority) as kept:  # fmt: skip
        assert server.url.startswith("https://")

        def served() -> str:
            name = ssl.get_server_certificate(address(server.url))
            return "first" if name.strip() in first.cert.read_text() else "second"

        assert top_label(kept.post(f"{server.url}/v1/classify", content=RED)) == "red"
        files[0].write_bytes(second.cert.read_bytes())  # the pair is broken for a moment
        server.wait_for("certificates_not_taken")
        assert served() == "first"
        files[1].write_bytes(second.key.read_bytes())
        server.wait_for("certificates_taken")
        assert served() == "second"
        assert top_label(kept.post(f"{server.url}/v1/classify", content=RED)) == "red"

        with connect(server.url) as plain:  # HTTP where HTTPS is spoken
            plain.sendall(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"200 OK" not in read_all(plain)
        malformed = ssl.create_default_context(cafile=authority.cert)
        with connect(server.url) as raw, malformed.wrap_socket(
            raw, server_hostname="127.0.0.1"
        ) as connection:  # fmt: skip
            connection.sendall(b"nonsense\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
        kept.close()
        server.signal()
        assert server.exit_status() == 0
        errors = [each["event"] for each in server.events if each["level"] == "error"]
        assert set(errors) == {"certificates_not_taken"}


def address(url: str) -> tuple[str, int]:
    parsed = httpx.URL(url)
    return parsed.host, int(parsed.port or 0)


def test_clients_without_a_certificate_are_not_heard(model_folder, tmp_path):
    """But on the port for metrics they are, where keys still count."""
    authority = Authority(tmp_path / "ca")
    pair, own = authority.issue("server"), authority.issue("client")
    keys = tmp_path / "keys"
    key = make_key(keys, "prometheus", "--scopes", "metrics")
    with serving(
        "--models", model_folder, "--tls-cert", pair.cert, "--tls-key", pair.key,
        "--tls-client-ca", authority.cert, "--metrics-port", 0, "--api-keys", keys,
    ) as server:  # fmt: skip
        with trusting(authority) as stranger:
            with pytest.raises(httpx.TransportError):
                stranger.get(f"{server.url}/livez")
            metrics = str(server.events[-1].get("metrics") or listening(server)["metrics"])
            assert stranger.get(f"{metrics}/readyz").status_code == 200
            assert stranger.get(f"{metrics}/metrics").status_code == 401
            headers = {"Authorization": f"Bearer {key}"}
            assert "resnet_serve" in stranger.get(f"{metrics}/metrics", headers=headers).text
        with trusting(authority, own) as known:
            assert known.get(f"{server.url}/livez").status_code == 200
        with Client(server.url) as client, pytest.raises(UntrustedServerError):
            client.health()
        tls = ssl.create_default_context(cafile=authority.cert)
        with Client(metrics, tls=tls, api_key=key) as client:
            assert client.health().models[0].name == "color"


def listening(server: object) -> dict[str, object]:
    (event,) = (e for e in server.events if e["event"] == "listening")  # type: ignore[attr-defined]
    return event


def test_metrics_and_health_have_a_port_of_their_own(model_folder):
    with serving("--models", model_folder, "--metrics-port", 0) as server:
        metrics = str(listening(server)["metrics"])
        with httpx.Client(timeout=PATIENCE_S) as client:

            def paths(url: str) -> dict[str, int]:
                names = ("metrics", "health", "livez", "readyz", "v1/models", "docs")
                return {name: client.get(f"{url}/{name}").status_code for name in names}

            wait_until(lambda: client.get(f"{metrics}/readyz").status_code == 200)
            assert paths(server.url) == {
                "metrics": 404, "health": 404, "livez": 200, "readyz": 200, "v1/models": 200,
                "docs": 200,
            }  # fmt: skip
            assert paths(metrics) == {
                "metrics": 200, "health": 200, "livez": 200, "readyz": 200, "v1/models": 404,
                "docs": 404,
            }  # fmt: skip
        server.signal(signal.SIGTERM)
        assert server.exit_status() == 0
