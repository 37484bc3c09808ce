"""Where the load goes: to this machine's loopback, and nowhere else."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from service.access.sent import key_in
from service.bench.errors import OptionError, TargetError


@dataclass(frozen=True, slots=True)
class Target:
    """A server on the loopback: the address to connect to and the Host header to send."""

    address: str
    port: int
    authority: str
    key: str | None = None
    """The API key to send."""

    def get(self, path: str) -> bytes:
        """Return the bytes of a GET request."""
        return "\r\n".join([*self._head("GET", path), "", ""]).encode()

    def post(self, path: str, body: bytes, **headers: object) -> bytes:
        """Return the bytes of a POST request; a `_` in a header's name stands for `-`."""
        lines = self._head("POST", path)
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def _head(self, method: str, path: str) -> list[str]:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.authority}"]
        return lines if self.key is None else [*lines, f"Authorization: Bearer {self.key}"]


def target_of(url: str, key_file: Path | None) -> Target:
    """Return the server at a URL, asked with the key in a file if there is one.

    Raises `TargetError`, or `OptionError` if the file has no key.
    """
    target = parse_target(url)
    if key_file is None:
        return target
    try:
        return replace(target, key=key_in(key_file))
    except ValueError as error:
        raise OptionError(f"--api-key-file {key_file}: {error}") from error


def parse_target(url: str) -> Target:
    """Parse a URL; raises `TargetError` unless it is plain HTTP to a loopback address.

    A load generator that accepts any address is a weapon, and over a network it would measure that.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, 80 if parts.port is None else parts.port
    except ValueError as error:
        raise TargetError(f"--url {url}: {error}") from error
    if parts.scheme != "http" or not host or parts.path not in {"", "/"} or parts.query:
        raise TargetError(f"--url {url}: must look like http://127.0.0.1:8000")
    return Target(_loopback_address(url, host, port), port, parts.netloc.rpartition("@")[2])


def _loopback_address(url: str, host: str, port: int) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise TargetError(f"--url {url}: {host} can't be resolved") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            raise TargetError(
                f"--url {url}: {host} is not this machine's loopback; a benchmark only sends load "
                "to 127.0.0.1, ::1 or localhost"
            )
    return addresses[0]  # resolved once, so that the name can't point to another host later


def classify_path(model: str | None, top_k: int, *, independent: bool = False) -> str:
    """Return the path of a request for labels, also if `independent` ones are improbable."""
    query: dict[str, object] = {"top_k": top_k}
    if model:
        query["model"] = model
    if independent:
        query["threshold"] = 0
    return "/v1/classify?" + urlencode(query)
