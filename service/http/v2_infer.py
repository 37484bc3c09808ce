"""POST /v2/models/NAME[/versions/VERSION]/infer: tensors in, tensors out."""

from __future__ import annotations

from functools import partial

from service.errors import RequestError
from service.http.codings import CODINGS, accepted_coding, compressed, is_worth_it
from service.http.exchange import Exchange
from service.http.stages import received
from service.http.time_limit import TIMEOUT_HEADER, deadline_of
from service.http.v2_names import named_model
from service.inference.deadline import RequestDeadline
from service.inference.request import Image
from service.kserve import rest
from service.kserve.infer import at_once_or_in_thread, read, run
from service.kserve.request import InferRequest, due_by
from service.models.model import ServedModel

_HEADER_LENGTH = "inference-header-content-length"


async def infer(exchange: Exchange) -> None:
    """Run the images of one tensor; see `service/kserve/`."""
    record, model = exchange.record, named_model(exchange)
    runtime = exchange.runtime
    due = deadline_of(exchange.headers, record, model.timeout_ms)

    async with received(exchange, model, due, codings=CODINGS) as body:
        length = rest.header_length_of(exchange.headers.get(_HEADER_LENGTH.encode()), len(body))
        call = partial(_parsed, body, length, model, runtime.settings.max_images)
        size = len(body) if length is None else length
        request, images = await at_once_or_in_thread(runtime, call, due, size)
        del body, call  # the views of it that are left hold it
        due = _due(exchange, request, due)
        response = await run(runtime, model, request, images, due, record)
    encoded = await at_once_or_in_thread(
        runtime, partial(rest.encode, response), due, response.size
    )
    await _answer(exchange, *encoded, due)


def _parsed(
    body: bytes, length: int | None, model: ServedModel, max_images: int
) -> tuple[InferRequest, list[Image | RequestError]]:
    request = rest.decode(body, length, model, max_images)
    return request, read(request, model, max_images)


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
        call = partial(compressed, body, coding)
        body = await at_once_or_in_thread(exchange.runtime, call, due, len(body))
    media_type = "application/json" if header_length is None else "application/octet-stream"
    await exchange.respond(200, media_type, body, headers)
