"""POST /v1/classify: images in, labels out."""

from __future__ import annotations

from service.http.bodies import body_parser_of
from service.http.exchange import Exchange
from service.http.query import labels_wanted, read_query
from service.http.results import classification
from service.http.schemas import ClassifyQuery
from service.http.stages import find_model, infer, parsed_images, received
from service.http.time_limit import deadline_of


async def classify(exchange: Exchange) -> None:
    """Return the most probable labels of each image.

    The body is an image, a form with files, or JSON with base64. The image format is recognised by
    content: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, and HEIC if its decoder is installed. The
    error of a single image is the answer itself; with several images, each has its labels or its
    error.
    """
    record = exchange.record
    query = read_query(exchange.query_string, ClassifyQuery)
    model = find_model(exchange, query.model, query.version)
    top = labels_wanted(query.top_k, model)
    due = deadline_of(exchange.headers, record, model.timeout_ms)
    parse = body_parser_of(exchange.headers.get(b"content-type"))

    async with received(exchange, model, due) as body:
        images = await parsed_images(exchange, body, parse, due)
        del body  # its parts are copies
        results = await infer(exchange, model, images, due)
    await exchange.respond_json(classification(model, images, results, top, record))
