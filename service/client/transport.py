"""What both clients set up alike: httpx, TLS, headers, and what its errors mean."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from service import __version__
from service.access.sent import checked_key
from service.client.answers import Answer
from service.client.calls import Sent
from service.client.tries import Tries
from service.errors import ClientError, UnreachableError, UntrustedServerError

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_S = 30.0
MOST_BYTES = 64 * 2**20
"""Of the images in flight together."""

MOST_IN_GROUP = 16
"""Images in a request: with more, the first results come later, and no more in a second."""


def http_options(
    url: str, api_key: str | None, connections: int, tls: ssl.SSLContext | None
) -> dict[str, Any]:
    """Return the options of an httpx client; without `tls`, the usual authorities are trusted.

    Raises `ValueError` for a URL or a key that can't be one: no try would mend that.
    """
    headers = {"user-agent": f"resnet-serve-client/{__version__}"}
    if api_key is not None:
        headers["authorization"] = f"Bearer {checked_key(api_key)}"
    scheme = _scheme_of(url)
    if tls is None and scheme == "http":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused, and far faster to make
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return {"base_url": url, "headers": headers, "verify": tls or True, "limits": limits}


def _scheme_of(url: str) -> str:
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"url {url!r}: {error}") from error
    if address.scheme not in {"http", "https"} or not address.host:
        raise ValueError(f"url {url!r} must look like {DEFAULT_URL}")
    return address.scheme


def request_options(sent: Sent, tries: Tries) -> dict[str, Any]:
    """Return the arguments of a request with httpx."""
    return {
        "method": sent.method,
        "url": sent.path,
        "params": dict(sent.params),
        "headers": {**sent.headers, **tries.headers()},
        "content": sent.content,
        "files": sent.files,
        "timeout": tries.left_s(),
    }


def answer_of(response: httpx.Response, body: bytes) -> Answer:
    """Return a response as an answer."""
    return Answer(response.status_code, dict(response.headers), body)


def meaning_of(error: httpx.TransportError, tries: Tries) -> ClientError:
    """Return the error that a caller sees."""
    if isinstance(error, httpx.TimeoutException):
        return tries.timed_out()
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):  # another try would change nothing
            return UntrustedServerError(cause.verify_message)
        cause = cause.__cause__ or cause.__context__
    return UnreachableError(f"{type(error).__name__}: {error}")
