"""POST /v2/models/NAME[/versions/VERSION]/infer: tensors in, tensors out."""

from __future__ import annotations

from functools import partial
from typing import TypeVar

from service.batching.costs import Work
from service.http.codings import CODINGS, accepted_coding, compressed, is_worth_it
from service.http.exchange import Exchange
from service.http.stages import received
from service.http.time_limit import TIMEOUT_HEADER, deadline_of
from service.http.v2_names import named_model
from service.inference.deadline import RequestDeadline
from service.kserve import rest
from service.kserve.infer import run
from service.kserve.request import InferRequest, due_by
from service.models.model import ServedModel

T = TypeVar("T")

_HEADER_LENGTH = "inference-header-content-length"
_AT_ONCE = 64 * 1024
"""Up to this size, JSON is read and written on the event loop: a hop to a thread takes longer."""


async def infer(exchange: Exchange) -> None:
    """Run the images of one tensor; see `service/kserve/`."""
    record, model = exchange.record, named_model(exchange)
    due = deadline_of(exchange.headers, record, model.timeout_ms)

    async with received(exchange, model, due, CODINGS) as body:
        request = await _read(exchange, body, model, due)
        del body  # the views of it that are left hold it
        due = _due(exchange, request, due)
        response = await run(exchange.runtime, model, request, due, record)
    await _answer(exchange, *rest.encode(response), due)


async def _read(
    exchange: Exchange, body: bytes, model: ServedModel, due: RequestDeadline
) -> InferRequest:
    """Parse a body, on a thread if much of it is JSON."""
    given = exchange.headers.get(_HEADER_LENGTH.encode())
    length = rest.header_length_of(given, len(body))
    call = partial(rest.decode, body, length, model, exchange.runtime.settings.max_images)
    size = len(body) if length is None else length
    if size <= _AT_ONCE:
        return call()
    pool = exchange.runtime.decode_pool
    return await pool.call(call, due.deadline, due.priority, Work("form", size=size))


def _due(exchange: Exchange, request: InferRequest, due: RequestDeadline) -> RequestDeadline:
    """Return the deadline that the request's parameters ask for, and keep to it from now on."""
    stated = TIMEOUT_HEADER in exchange.headers
    asked = due_by(request.parameters, due, exchange.record.arrival, stated=stated)
    if asked.deadline != due.deadline and exchange.time_limit is not None:
        exchange.time_limit.change(asked)
    return asked


async def _answer(
    exchange: Exchange, body: bytes, header_length: int | None, due: RequestDeadline
) -> None:
    """Send the outputs, compressed if the client takes that and there is much to save.

    The header's length is that of the JSON before it is compressed.
    """
    headers = {} if header_length is None else {_HEADER_LENGTH: str(header_length)}
    coding = accepted_coding(exchange.headers.get(b"accept-encoding", b""))
    if coding and is_worth_it(body):
        headers["content-encoding"] = coding.decode()
        if len(body) <= _AT_ONCE:
            body = compressed(body, coding)
        else:
            call, work = partial(compressed, body, coding), Work("form", size=len(body))
            pool = exchange.runtime.decode_pool
            body = await pool.call(call, due.deadline, due.priority, work)
    media_type = "application/json" if header_length is None else "application/octet-stream"
    await exchange.respond(200, media_type, body, headers)
