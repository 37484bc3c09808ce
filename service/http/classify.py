"""POST /v1/classify: images in, labels out."""

from __future__ import annotations

from functools import partial

from service.batching.costs import Work
from service.http.bodies import BodyParser, PostedImage, body_parser_of
from service.http.exchange import Exchange
from service.http.query import read_query
from service.http.results import classification
from service.http.schemas import ClassifyQuery
from service.http.selection import selection_of
from service.http.time_limit import TimeLimit, deadline_of
from service.http.upload import HeldBytes, read_body
from service.inference.deadline import RequestDeadline
from service.inference.request import InferenceRequest
from service.inference.runtime import Runtime


async def classify(exchange: Exchange) -> None:
    """Return the labels of each image: the most probable, or as many as a parameter asks for.

    The body is an image, a form with files, or JSON with base64. The image format is recognised by
    content: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, and HEIC if its decoder is installed. The
    error of a single image is the answer itself; with several images, each has its labels or its
    error.
    """
    runtime, record = exchange.runtime, exchange.record
    settings = runtime.settings
    query = read_query(exchange.query_string, ClassifyQuery)
    model = runtime.repository.find(query.model, query.version)
    record.model = model.name
    selection = selection_of(query, model)
    due = deadline_of(exchange.headers, record, settings, model.name)
    parse = body_parser_of(exchange.headers.get(b"content-type"))
    # A request that can't be answered in time is refused before its body is read.
    runtime.inference.check(model, due)

    async with TimeLimit(due, record, settings.body_timeout_s) as limit:
        with HeldBytes(runtime.body_bytes) as held:
            body = await read_body(exchange, held, settings.max_body_bytes)
            limit.body_is_read()
            with exchange.cancelled_when_client_leaves():
                images = [PostedImage(body)]
                if parse is not None:
                    images = await _parsed(parse, body, due, runtime)
                del body  # its parts are copies
                record.images = len(images)
                contents = [image.content for image in images]
                results = await runtime.inference.run(
                    InferenceRequest(
                        model,
                        contents,
                        due,
                        record.request_id,
                        record.stages,
                        selection.outputs,
                    )
                )
    await exchange.respond_json(classification(model, images, results, selection, record))


async def _parsed(
    parse: BodyParser, body: bytes, due: RequestDeadline, runtime: Runtime
) -> list[PostedImage]:
    """Parse a body off the event loop: a large one takes a while."""
    call = partial(parse, body, runtime.settings.max_images)
    work = Work("form", size=len(body))
    return await runtime.decode_pool.call(call, due.deadline, due.priority, work)
