"""POST /v1/classify: images in, labels out."""

from __future__ import annotations

from service.errors import RequestError
from service.http.bodies import BodyParser, PostedImage, body_parser_of
from service.http.exchange import Exchange
from service.http.query import read_query
from service.http.results import classification
from service.http.schemas import ClassifyQuery
from service.http.stages import find_model, infer, parsed_images, received
from service.http.time_limit import deadline_of
from service.inference.request import ImageResult
from service.inference.selection import Selection, selection_of
from service.models.model import ServedModel


async def classify(exchange: Exchange) -> None:
    """Return the labels of each image: the most probable, or as many as a parameter asks for.

    The body is an image, a form with files, or JSON with base64. The image format is recognised by
    content: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, and HEIC if its decoder is installed. The
    error of a single image is the answer itself; with several images, each has its labels or its
    error.
    """
    await answer_with_labels(exchange, exchange.headers.get(b"content-type"))


async def answer_with_labels(exchange: Exchange, content_type: bytes | None) -> None:
    """Answer as `classify` does, reading the body by `content_type`; None: it is an image."""
    record = exchange.record
    query = read_query(exchange.query_string, ClassifyQuery)
    model = find_model(exchange, query.model, query.version)
    selection = selection_of(
        model, query.top_k, query.threshold, query.coverage, abstain=query.abstain
    )
    images, results = await classified(exchange, model, body_parser_of(content_type), selection)
    await exchange.respond_json(classification(model, images, results, selection, record))


async def classified(
    exchange: Exchange, model: ServedModel, parse: BodyParser | None, selection: Selection
) -> tuple[list[PostedImage], list[ImageResult | RequestError]]:
    """Return the images of the body, which is one itself if `parse` is None, and their results."""
    due = deadline_of(exchange.headers, exchange.record, model.timeout_ms)
    async with received(exchange, model, due, outputs=selection.outputs) as body:
        images = await parsed_images(exchange, body, parse, due)
        del body  # its parts are copies
        return images, await infer(exchange, model, images, due, selection.outputs)
