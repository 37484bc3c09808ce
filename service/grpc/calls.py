"""What every gRPC call gets: an id, a record, metrics, one log line and, if it fails, a status."""

from __future__ import annotations

import asyncio
import re
import time
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from urllib.parse import unquote

import grpc
from grpc.aio import ServicerContext as Context

from service.access.scopes import Scope
from service.errors import BodyTimeoutError, InvalidInferError, RequestError, StoppingError
from service.inference.record import RequestRecord, log_request
from service.inference.runtime import Runtime
from service.logs import request_id
from service.tracebacks import forget_frames, known_error

_LEFT = 499  # as HTTP requests whose client has left are counted
_METHOD = "GRPC"
_LAST_MESSAGES_S = 1.0
_PEER = re.compile(r"ipv[46]:(.+):[0-9]+")
_ID, _AUTHORIZATION = "x-request-id", "authorization"

_CODES: Mapping[int, grpc.StatusCode] = {
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.INTERNAL_SERVER_ERROR: grpc.StatusCode.INTERNAL,
    HTTPStatus.NOT_IMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}


def code_of(error: RequestError) -> grpc.StatusCode:
    """Return the gRPC status of an error; what the client did wrong is INVALID_ARGUMENT."""
    return _CODES.get(error.status, grpc.StatusCode.INVALID_ARGUMENT)


class Calls:
    """Counts and logs the calls of a server, and answers their errors."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._metrics = runtime, runtime.metrics
        self.stopping = asyncio.Event()
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.stop_by: float | None = None
        """When calls that are still running are abandoned, of time.monotonic()."""

    @asynccontextmanager
    async def call(
        self, method: str, context: Context, scope: Scope
    ) -> AsyncIterator[RequestRecord]:
        """Yield the record of a call; an error that the block raises ends the call with a status.

        So does the lack of an API key with the `scope`, in the metadata `authorization`. If the
        client leaves or its deadline passes, gRPC cancels the block.
        """
        given = _metadata(context)
        record = RequestRecord(request_id(given.get(_ID)))
        status = int(HTTPStatus.OK)
        self._begin()
        try:
            self._admit(given, scope, record)
            yield record
        except asyncio.CancelledError:
            status = _LEFT
            if self.stop_by is not None and time.monotonic() >= self.stop_by:
                self._runtime.given_up += 1
            raise
        except Exception as error:  # noqa: BLE001 - the last place that can still answer
            shown = known_error(error, record.request_id)
            forget_frames(error, logged=True)
            status, record.code = shown.status, shown.code
            await self._abort(context, shown, record.request_id)
        finally:
            self._end()
            self._record(method, context, record, status)

    def admit_again(self, context: Context, scope: Scope, record: RequestRecord) -> None:
        """Judge a further request of a call by the keys that are now in force.

        Raises what `Guard.admit` does.
        """
        self._admit(_metadata(context), scope, record)

    def _admit(self, given: Mapping[str, bytes], scope: Scope, record: RequestRecord) -> None:
        if scope is not Scope.PUBLIC:
            record.key = self._runtime.authorize(given.get(_AUTHORIZATION), scope)

    async def message_of(self, requests: AsyncIterator[bytes]) -> bytes:
        """Return the message of a call that has one; it takes memory only from now on.

        Raises `BodyTimeoutError`, `StoppingError`, or `InvalidInferError` if there is none.
        """
        limit_s = self._runtime.settings.body_timeout_s
        coming = asyncio.ensure_future(_next(requests))
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            await asyncio.wait({coming, stopping}, timeout=limit_s, return_when=FIRST_COMPLETED)
            if stopping.done():  # what is on its way may still come
                await asyncio.wait({coming}, timeout=min(limit_s, _LAST_MESSAGES_S))
            if not coming.done():
                if stopping.done():
                    raise StoppingError("the service is stopping; the message came too late")
                raise BodyTimeoutError(
                    f"the message did not arrive within {limit_s:g} s (body_timeout_s)"
                )
            if (found := coming.result()) is None:
                raise InvalidInferError("the call has no message")
            return found
        finally:
            coming.cancel()
            stopping.cancel()

    async def finished(self) -> None:
        """Wait until no call is left."""
        await self._idle.wait()

    async def until_stopping(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the requests of a stream until its client ends it, or the service stops."""
        stopping = asyncio.create_task(self.stopping.wait())
        try:
            while not stopping.done():
                coming = asyncio.ensure_future(_next(requests))
                try:
                    await asyncio.wait({coming, stopping}, return_when=FIRST_COMPLETED)
                finally:
                    if not coming.done():
                        coming.cancel()
                if not coming.done() or (request := coming.result()) is None:
                    return
                yield request
        finally:
            stopping.cancel()

    def _begin(self) -> None:
        self._active += 1
        self._idle.clear()
        self._metrics.requests_in_flight.inc()

    def _end(self) -> None:
        self._active -= 1
        if not self._active:
            self._idle.set()
        self._metrics.requests_in_flight.dec()

    async def _abort(self, context: Context, error: RequestError, name: str) -> None:
        trailers = [("x-error-code", error.code), (_ID, name)]
        if error.retry_after_s is not None:
            trailers.append(("retry-after", str(error.retry_after_s)))
        await context.abort(code_of(error), str(error), tuple(trailers))

    def _record(self, method: str, context: Context, record: RequestRecord, status: int) -> None:
        seconds = record.elapsed_s()
        self._metrics.count_request(method, _METHOD, status, seconds)
        if record.code is not None:
            self._metrics.count_refusal(record.code)
        log_request(
            record.request_id,
            (address_of(context.peer()),),
            status,
            record.code,
            record.images,
            method=_METHOD,
            path=method,
            model=record.model,
            batch_size=record.stages.batch_size,
            total_ms=round(seconds * 1000, 3),
            **({} if record.key is None else {"key": record.key}),
            **{f"{stage}_ms": ms for stage, ms in record.timings_ms().items()},
        )


def address_of(peer: str) -> str:
    """Return the address in gRPC's name of a client, as in `ipv4:127.0.0.1:42516`."""
    found = _PEER.fullmatch(unquote(peer))
    return found[1].strip("[]") if found else peer


async def _next(requests: AsyncIterator[bytes]) -> bytes | None:
    """Return a stream's next request; None at its end."""
    return await anext(requests, None)


def _metadata(context: Context) -> dict[str, bytes]:
    """Return the metadata of a call that is read here."""
    return {
        name: value.encode() if isinstance(value, str) else bytes(value)
        for name, value in context.invocation_metadata() or ()
        if name in {_ID, _AUTHORIZATION}
    }
