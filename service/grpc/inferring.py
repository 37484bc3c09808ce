"""ModelInfer and ModelStreamInfer: tensors in, tensors out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has none
from grpc.aio import ServicerContext as Context

from service.access.scopes import Scope
from service.batching.admission import HeldBytes
from service.batching.costs import Work
from service.batching.ticket import Priority
from service.errors import InvalidInferError
from service.grpc.calls import Calls
from service.grpc.convert import request_of, response_of, wants_final
from service.grpc.messages import messages
from service.grpc.names import model_of
from service.inference.deadline import RequestDeadline
from service.inference.record import RequestRecord
from service.inference.runtime import Runtime
from service.inference.time_limit import TimeLimit
from service.kserve.infer import run
from service.kserve.request import due_by
from service.models.model import ServedModel
from service.settings import MAX_TIMEOUT_MS
from service.tracebacks import forget_frames, known_error

_AT_ONCE = 2**20
"""Up to this size, a message is parsed on the event loop: a hop to a thread takes longer."""


class Inferring:
    """The two methods that run a model. Requests come as bytes, so that they can be counted."""

    def __init__(self, runtime: Runtime, calls: Calls) -> None:
        self._runtime, self._calls = runtime, calls

    async def one(self, method: str, data: bytes, context: Context) -> bytes:
        """Answer one request."""
        async with self._calls.call(method, context, Scope.CLASSIFY) as record:
            response = await self._answer(data, record, context.time_remaining())
            return bytes(response.SerializeToString())
        raise AssertionError("a failed call is aborted")  # as type checkers can't know

    async def stream(
        self, method: str, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        """Answer the requests of a stream one after another; an error ends only its request."""
        async with self._calls.call(method, context, Scope.CLASSIFY) as record:
            async for data in requests:
                own = RequestRecord(record.request_id)
                message = messages.ModelStreamInferResponse()
                try:
                    response = await self._answer(data, own, context.time_remaining())
                    message.infer_response.CopyFrom(response)
                except Exception as error:  # noqa: BLE001 - the next request is another one's
                    shown = known_error(error, record.request_id)
                    forget_frames(error, logged=True)
                    record.code = shown.code
                    message.error_message = str(shown)
                    message.infer_response.id = _id_of(data)
                record.model, record.images = own.model, record.images + own.images
                yield bytes(message.SerializeToString())

    async def _answer(self, data: bytes, record: RequestRecord, left_s: float | None) -> Any:
        runtime = self._runtime
        with HeldBytes(runtime.body_bytes) as held:
            held.grow_by(len(data))
            message = await self._parsed(data)
            del data
            model = model_of(runtime, message.model_name, message.model_version, record)
            request = request_of(message)
            default = _default_due(model, record, left_s)
            due = due_by(request.parameters, default, record.arrival, stated=left_s is not None)
            runtime.inference.check(model, due)
            async with TimeLimit(due, record, runtime.settings.body_timeout_s) as limit:
                limit.body_is_read()
                response = await run(runtime, model, request, due, record)
            return response_of(response, final=wants_final(message))

    async def _parsed(self, data: bytes) -> Any:
        call = partial(messages.ModelInferRequest.FromString, data)
        try:
            if len(data) <= _AT_ONCE:
                return call()
            due = time.perf_counter() + self._runtime.settings.request_timeout_ms / 1000
            work = Work("form", size=len(data))
            return await self._runtime.decode_pool.call(call, due, Priority.HIGH, work)
        except DecodeError as error:
            raise InvalidInferError("the message is no ModelInferRequest") from error


def _default_due(
    model: ServedModel, record: RequestRecord, left_s: float | None
) -> RequestDeadline:
    """Return the call's own deadline, or the model's if it has none."""
    timeout_ms = model.timeout_ms
    if left_s is not None:
        timeout_ms = max(1, min(int(left_s * 1000), MAX_TIMEOUT_MS))
    return RequestDeadline(record.arrival + timeout_ms / 1000, timeout_ms)


def _id_of(data: bytes) -> str:
    """Return the id of a request that failed, by which its client finds it; empty if unreadable."""
    try:
        return str(messages.ModelInferRequest.FromString(data).id)
    except DecodeError:
        return ""
