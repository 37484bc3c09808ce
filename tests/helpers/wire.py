"""Raw HTTP over a socket, for clients that stall, lie or leave; and a patient client."""

from __future__ import annotations

import socket
import ssl
from urllib.parse import urlsplit

import httpx
from waiting import PATIENCE_S

_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""TLS is not used, and loading the system's certificates takes longer than many tests."""


def patient_client(url: object, *, retries: int = 0) -> httpx.Client:
    """Return a client with long timeouts; with retries it also waits until a server listens."""
    transport = httpx.HTTPTransport(retries=retries, verify=_NO_TLS)
    return httpx.Client(base_url=str(url), timeout=PATIENCE_S, transport=transport)


def connect(url: str) -> socket.socket:
    parts = urlsplit(str(url))
    return socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_S)


def head(path: str = "/v1/classify", **headers: object) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: test"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read_all(connection: socket.socket) -> bytes:
    """Read until the server closes."""
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Read one answer of known length; return its status and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, f"closed after {data!r}"
        data += piece
    header, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.split(b": ", 1) for line in header.lower().split(b"\r\n")[1:])
    while len(body) < int(fields[b"content-length"]):
        body += connection.recv(65536)
    return int(header.split()[1]), body
