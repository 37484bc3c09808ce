"""ModelInfer and ModelStreamInfer: tensors in, tensors out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # has none
from grpc.aio import ServicerContext as Context

from service.access.scopes import Scope
from service.batching.admission import HeldBytes
from service.errors import InvalidInferError, RequestError, StoppingError
from service.grpc.calls import Calls
from service.grpc.convert import parameters_of, request_of, response_of, wants_final
from service.grpc.messages import messages
from service.grpc.names import model_of
from service.inference.deadline import RequestDeadline
from service.inference.record import RequestRecord
from service.inference.request import Image
from service.inference.runtime import Runtime
from service.inference.time_limit import TimeLimit
from service.kserve.infer import at_once_or_in_thread, read, run
from service.kserve.request import InferRequest, due_by
from service.models.model import ServedModel
from service.settings import MAX_TIMEOUT_MS
from service.tracebacks import forget_frames, known_error

_RAW_IS_FASTER = 16
"""How much faster bytes are copied, at least, than numbers are read one by one."""


class Inferring:
    """The two methods that run a model. Requests come as bytes, so that they can be counted."""

    def __init__(self, runtime: Runtime, calls: Calls) -> None:
        self._runtime, self._calls = runtime, calls

    async def one(self, method: str, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Answer one request."""
        async with self._calls.call(method, context, Scope.CLASSIFY) as record:
            data = await self._calls.message_of(requests)
            response = await self._answer(data, record, context.time_remaining())
            return bytes(response.SerializeToString())
        raise AssertionError("a failed call is aborted")  # as type checkers can't know

    async def stream(
        self, method: str, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        """Answer the requests of a stream one after another; an error ends only its request.

        Each counts as a request of the key, which may also have been withdrawn since the stream
        began. When the service stops, the stream ends behind the request that is being answered.
        """
        async with self._calls.call(method, context, Scope.CLASSIFY) as record:
            is_first = True  # which was admitted with the call
            async for data in self._calls.until_stopping(requests):
                own = RequestRecord(record.request_id)
                message = messages.ModelStreamInferResponse()
                try:
                    if not is_first:
                        self._calls.admit_again(context, Scope.CLASSIFY, own)
                    is_first = False
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
            if self._calls.stopping.is_set():
                raise StoppingError("the service is stopping; the stream's other requests are lost")

    async def _answer(self, data: bytes, record: RequestRecord, left_s: float | None) -> Any:
        runtime, size = self._runtime, len(data)
        with HeldBytes(runtime.body_bytes) as held:
            held.grow_by(size)
            at_first = _due(runtime.settings.request_timeout_ms, record, left_s)
            call: partial[Any] = partial(_parsed, data)
            message = await at_once_or_in_thread(runtime, call, at_first, size // _RAW_IS_FASTER)
            del data, call
            model = model_of(runtime, message.model_name, message.model_version, record)
            due = due_by(
                parameters_of(message.parameters),
                _due(model.timeout_ms, record, left_s),
                record.arrival,
                stated=left_s is not None,
            )
            runtime.inference.check(model, due)
            async with TimeLimit(due, record, runtime.settings.body_timeout_s) as limit:
                limit.body_is_read()
                call = partial(_read, message, model, runtime.settings.max_images)
                if message.raw_input_contents:
                    size //= _RAW_IS_FASTER
                with model.use:
                    request, images = await at_once_or_in_thread(runtime, call, due, size)
                    response = await run(runtime, model, request, images, due, record)
            return response_of(response, final=wants_final(message))


def _parsed(data: bytes) -> Any:
    try:
        return messages.ModelInferRequest.FromString(data)
    except DecodeError as error:
        raise InvalidInferError("the message is no ModelInferRequest") from error


def _read(
    message: Any, model: ServedModel, max_images: int
) -> tuple[InferRequest, list[Image | RequestError]]:
    request = request_of(message)
    return request, read(request, model, max_images)


def _due(timeout_ms: int, record: RequestRecord, left_s: float | None) -> RequestDeadline:
    """Return the call's own deadline, or one after `timeout_ms` if it has none."""
    if left_s is not None:
        timeout_ms = max(1, min(int(left_s * 1000), MAX_TIMEOUT_MS))
    return RequestDeadline(record.arrival + timeout_ms / 1000, timeout_ms)


def _id_of(data: bytes) -> str:
    """Return the id of a request that failed, by which its client finds it; empty if unreadable."""
    try:
        return str(messages.ModelInferRequest.FromString(data).id)
    except DecodeError:
        return ""
