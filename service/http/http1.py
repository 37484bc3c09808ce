"""HTTP/1.1 with uvicorn and httptools, made as strict as the standard demands.

With httptools (llhttp, the parser of Node.js) a small request costs little more than half of what
it costs with h11. uvicorn's use of it leaves gaps, which are closed here: a request that offers an
upgrade, as every request of Java's HTTP client does, loses its body, in which a second request can
be smuggled; heads have no limit on size or time; and the Host header, the version and the transfer
coding are not checked.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools
import structlog
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.errors import (
    HeadersTimeoutError,
    HeadersTooLargeError,
    MalformedRequestError,
    RequestError,
)
from service.http.exchange import ON_DISCONNECT, REFUSED
from service.http.json_body import json_body
from service.http.problems import MEDIA_TYPE, is_v2, problem
from service.http.writing import JoinedWrites, WriteTimeout
from service.inference.record import log_request
from service.logs import request_id
from service.tracebacks import forget_frames
from service.wording import shortened

_MAX_HEAD_BYTES = 64 * 1024
_MAX_PIPELINED = 16
"""Unanswered requests per connection; they cost the client only a few bytes each."""

_SEPARATORS = 4  # bytes of a header besides its name and value
_LINGER_S = 1.0

_HOST = re.compile(  # RFC 3986, section 3.2.2, with an optional port
    rb"(?:(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*+"
    rb"|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~%-]+)?\]"  # with a zone, as some clients send it
    rb"|\[[vV][0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+\])(?::[0-9]*)?"
)
_ENCODED_SEPARATOR = re.compile(r"%(?=2[Ff]|5[Cc])")

_log = structlog.get_logger("service.request")


Refused = Callable[[str], None]
"""Counts a refusal by its code."""


def http1_protocol(
    head_timeout_s: float, write_timeout_s: float, refused: Refused, root_path: str | None = None
) -> partial[Http1Protocol]:
    """Return the protocol factory for uvicorn's configuration."""
    return partial(Http1Protocol, head_timeout_s, write_timeout_s, refused, root_path or "")


class Http1Protocol(HttpToolsProtocol):
    """One connection.

    A malformed request is answered with a problem detail, and the connection is closed: it is
    unclear where a next request would start (RFC 9112, section 9.3).
    """

    def __init__(
        self,
        head_timeout_s: float,
        write_timeout_s: float,
        refused: Refused,
        root_path: str,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._head_timeout_s, self._write_timeout_s = head_timeout_s, write_timeout_s
        self._count_refused, self._root_path = refused, root_path
        self._head_timer: asyncio.TimerHandle | None = None
        self._other_bytes = 0  # of heads and trailers, since the last piece of a body
        self._in_head = True
        self._refusal: RequestError | None = None
        self._refused = False
        self._cycles: list[RequestResponseCycle] = []
        self.parser = self._new_parser()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start; a client that never sends a byte counts as idle, like any other."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
        self._write_timeout = WriteTimeout(
            transport, self.loop, self._write_timeout_s, self._client_dropped
        )
        self._write_timeout.watch()

    def pause_writing(self) -> None:
        """Wait a limited time for a client that has not read all of its answer."""
        super().pause_writing()
        self._write_timeout.start()

    def resume_writing(self) -> None:
        """Continue: the client has read everything."""
        self._write_timeout.stop()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers and notify every unanswered request."""
        self._stop_timer()
        self._write_timeout.stop()
        self._unset_keepalive_if_required()
        unfinished = [cycle for cycle in self._cycles if not cycle.response_complete]
        super().connection_lost(exc)
        # uvicorn notifies only the newest of pipelined requests, but the oldest is the running one.
        for cycle in unfinished:
            cycle.disconnected = True
            cycle.message_event.set()
            if (leave := cast("Scope", cycle.scope).get(ON_DISCONNECT)) is not None:
                leave()

    def data_received(self, data: bytes) -> None:
        """Parse received data; requests start once their heads are complete."""
        if self._refused or self.transport.is_closing():
            return
        self._unset_keepalive_if_required()
        self._other_bytes += len(data)
        try:
            self._feed(data)
            if self._other_bytes > _MAX_HEAD_BYTES:
                raise _head_too_large()
        except RequestError as error:
            self._refuse(error)
        except httptools.HttpParserCallbackError as error:
            refusal = self._refusal or self._told_of_callback(error)
            forget_frames(error, logged=True)
            self._refuse(refusal)
        except httptools.HttpParserError as error:
            self._refuse(MalformedRequestError(f"not HTTP/1.1: {error}"))
        else:
            if self._in_head and self._other_bytes and self._head_timer is None:
                self._head_timer = self.loop.call_later(self._head_timeout_s, self._head_timed_out)

    # Called by the parser, which turns exceptions into an `HttpParserCallbackError`.

    def on_headers_complete(self) -> None:
        """Check the head and start the request."""
        if self.parser.should_upgrade():
            return  # the parser stops here, and `_feed` goes on
        self._in_head, self._other_bytes = False, 0
        self._stop_timer()
        if (refusal := self._judge_head()) is not None:
            raise self._refuse_by(refusal)
        self._cycles = [cycle for cycle in self._cycles if not cycle.response_complete]
        if len(self._cycles) >= _MAX_PIPELINED:
            raise self._refuse_by(
                MalformedRequestError(
                    f"{_MAX_PIPELINED} requests on this connection are not answered yet; wait for "
                    "answers before sending more"
                )
            )
        if self.expect_100_continue and self.parser.get_http_version() == "1.0":
            self._drop_expectation()
        if not self.url.startswith(b"/"):
            self.url = _with_path(self.url)
        super().on_headers_complete()
        if b"%" in self.url:
            self.scope["path"] = _decoded(self.scope["raw_path"])
        self._cycles.append(self.cycle)
        self.cycle.transport = JoinedWrites(self.transport, self.loop)  # type: ignore[assignment]

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailer fields are dropped (RFC 9110, section 6.5.1).

        White space around a value is not part of it (section 5.5); the parser leaves it at the end.
        """
        if self._in_head:
            super().on_header(name, value.rstrip(b" \t"))

    def on_body(self, body: bytes) -> None:
        """Receive a piece of the body."""
        self._other_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Expect the next head."""
        if self.parser.should_upgrade():
            return
        self._in_head, self._other_bytes = True, 0
        super().on_message_complete()
        if not self.pipeline:
            # uvicorn pauses reading at 64 KiB of a body, but only reading shows that a client left.
            self.flow.resume_reading()

    def on_response_complete(self) -> None:
        """Continue with the next request, unless the rest of this one's body is still to come."""
        if self.cycle.response_complete and self.cycle.more_body:
            self.cycle.transport.close()
        super().on_response_complete()

    # Our own methods.

    def _new_parser(self) -> httptools.HttpRequestParser:
        """Return a parser that is more lenient than llhttp by default.

        It allows data after "Connection: close", which is dropped, and spaces after a chunk's size,
        with which some clients pad it.
        """
        parser: Any = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(
            lenient_data_after_close=True, lenient_spaces_after_chunk_size=True
        )
        return cast("httptools.HttpRequestParser", parser)

    def _refuse_by(self, refusal: RequestError) -> RequestError:
        """Store an error until the parser returns, since the parser raises another exception."""
        self._refusal = refusal
        return refusal

    def _feed(self, data: bytes) -> None:
        # Outside the `except` for the offer, or that would become the context of later errors.
        while (end := self._parse(data)) is not None:
            data = data[end:]
            self._decline_upgrade()

    def _parse(self, data: bytes) -> int | None:
        """Parse data; return where the parser stopped at an offer to upgrade, if it did."""
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            return int(offer.args[0])
        return None

    def _decline_upgrade(self) -> None:
        """Ignore an offer to upgrade, as a server may (RFC 9110, section 7.8).

        The parser takes the body for data of the other protocol. A new parser gets the same head
        without the offer, then the body.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise MalformedRequestError("CONNECT is for proxies, and this server is not one")
        head = [method, b" ", self.url, b" HTTP/", self.parser.get_http_version().encode(), b"\r\n"]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                kept = b", ".join(token for token in tokens if token.lower() != b"upgrade")
                head += [b"connection: ", kept, b"\r\n"]
            elif name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = self._new_parser()
        self.parser.feed_data(b"".join([*head, b"\r\n"]))

    def _drop_expectation(self) -> None:
        """Ignore the Expect header of an HTTP/1.0 client (RFC 9110, section 10.1.1)."""
        self.expect_100_continue = False
        self.headers[:] = [header for header in self.headers if header[0] != b"expect"]

    def _judge_head(self) -> RequestError | None:
        size, hosts = len(self.url), []
        for name, value in self.headers:
            size += len(name) + len(value) + _SEPARATORS
            if name == b"host":
                hosts.append(value)
            elif name == b"transfer-encoding" and value.lower() != b"chunked":
                return MalformedRequestError("Transfer-Encoding: only chunked is accepted")
        if size > _MAX_HEAD_BYTES:
            return _head_too_large()
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            return MalformedRequestError(f"HTTP/{version} is not supported; use HTTP/1.1")
        if self.url.partition(b"?")[0] == b"*" and self.parser.get_method() != b"OPTIONS":
            return MalformedRequestError("the target * is only for OPTIONS")
        return _judge_host(hosts, version)

    def _refuse(self, error: RequestError) -> None:
        """Answer instead of the application, and close.

        If earlier answers are in progress, they are finished and the refusal is not sent. Further
        data from the client is discarded for a moment: closing at once would reset the connection,
        maybe before the client has read the answer (RFC 9112, section 9.6).
        """
        self._refused, self._refusal = True, None
        forget_frames(error, logged=True)  # they hold this connection and the data it has sent
        self._stop_timer()
        self._count_refused(error.code)
        under_way = [cycle for cycle in self._cycles if not cycle.response_complete]
        if under_way and under_way[-1].more_body and not under_way[-1].response_started:
            broken = under_way.pop()  # its body will never be complete, so it gets no answer
            broken.disconnected = True
            broken.message_event.set()
            cast("Scope", broken.scope)[REFUSED] = error
            cast("JoinedWrites", broken.transport).mute()
            if under_way:
                self.pipeline.popleft()
        name = request_id(None)
        log_request(name, self.client, error.status, error.code, detail=str(error))
        if under_way:
            under_way[-1].keep_alive = False
            return
        body = json_body(problem(error, name, v2=self._is_v2()))
        status = HTTPStatus(error.status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {name}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        if self.transport.can_write_eof():  # TLS has none
            self.transport.write_eof()
        self._head_timer = self.loop.call_later(_LINGER_S, self.transport.close)

    def _is_v2(self) -> bool:
        """Return whether the target, as far as it was read, is of the Open Inference Protocol."""
        path = self.url.partition(b"?")[0].decode("latin-1")
        return is_v2(path.removeprefix(self._root_path))

    def _told_of_callback(self, error: httptools.HttpParserCallbackError) -> RequestError:
        """Return the error for a failed callback; log it unless the client's target is to blame."""
        cause = error.__context__
        if isinstance(cause, (httptools.HttpParserInvalidURLError, UnicodeDecodeError)):
            return MalformedRequestError("the request's target is not a path")
        _log.error("callback_failed", exc_info=cause or error)
        return MalformedRequestError("the request could not be read")

    def _head_timed_out(self) -> None:
        self._head_timer = None
        self._refuse(
            HeadersTimeoutError(
                f"the headers did not arrive within {self._head_timeout_s:g} s (body_timeout_s)"
            )
        )

    def _client_dropped(self, left: int) -> None:
        _log.info("client_dropped", detail="the client did not read its answer", bytes_left=left)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _judge_host(hosts: list[bytes], version: str) -> RequestError | None:
    """Check the Host header against RFC 9112, section 3.2."""
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        return MalformedRequestError(f"there are {len(hosts)} Host headers; send exactly one")
    if hosts and not _HOST.fullmatch(hosts[0]):
        return MalformedRequestError(
            f"Host is {shortened(hosts[0])!r}; it must be a name or an address, optionally with a "
            "port"
        )
    return None


def _decoded(path: bytes) -> str:
    """Decode a path except encoded separators, which don't separate (RFC 3986, section 2.2).

    Otherwise a proxy that restricts paths would have let it pass as a different path.
    """
    return unquote(_ENCODED_SEPARATOR.sub("%25", path.decode("ascii")))


def _with_path(target: bytes) -> bytes:
    """Add the path "/" to an absolute target without one (RFC 9110, section 4.2.3)."""
    url: Any = httptools.parse_url(target)
    if url.path is not None:
        return target
    return b"/" if url.query is None else b"/?" + url.query


def _head_too_large() -> HeadersTooLargeError:
    return HeadersTooLargeError(f"the headers are larger than {_MAX_HEAD_BYTES} bytes")
