"""POST /v1/embed: images in, pooled features out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.batching.costs import Work
from service.contract import EMBEDDING
from service.errors import InferenceError, RequestError
from service.http.accept import JSON, OCTETS, preferred
from service.http.bodies import body_parser_of
from service.http.exchange import Exchange
from service.http.json_body import float32_numbers, json_body
from service.http.query import read_query
from service.http.results import answer
from service.http.schemas import InferenceQuery
from service.http.stages import find_model, infer, off_the_loop, parsed_images, received
from service.http.time_limit import deadline_of
from service.inference.request import ImageResult

_OUTPUTS = (EMBEDDING,)


async def embed(exchange: Exchange) -> None:
    """Return each image's embedding: the features before the classifier, pooled over the image.

    The bodies are those of a classify request. With `Accept: application/octet-stream`, the answer
    is all embeddings as float32, little-endian, in the order of the images; `X-Shape` has their
    number and length. An image that fails then fails the request.
    """
    record = exchange.record
    query = read_query(exchange.query_string, InferenceQuery)
    model = find_model(exchange, query.model, query.version)
    media_type = preferred(exchange.headers.get(b"accept"), (JSON, OCTETS))
    due = deadline_of(exchange.headers, record, model.timeout_ms)
    parse = body_parser_of(exchange.headers.get(b"content-type"))

    async with received(exchange, model, due, outputs=_OUTPUTS) as body:
        images = await parsed_images(exchange, body, parse, due)
        del body  # its parts are copies
        results = await infer(exchange, model, images, due, _OUTPUTS)
        if media_type == JSON:
            shown = await off_the_loop(
                exchange,
                lambda: json_body(answer(model, images, results, _shown_embedding, record)),
                due,
                Work("numbers", size=_bytes_of(results)),
            )
    if media_type == JSON:
        await exchange.respond(200, JSON, shown)
    else:
        await exchange.respond_array(_stacked(results))


def _shown_embedding(result: ImageResult) -> dict[str, Any]:
    return {
        "embedding": float32_numbers(_finite(result)),
        "width": result.width,
        "height": result.height,
    }


def _stacked(results: Sequence[ImageResult | RequestError]) -> NDArray[np.float32]:
    """Return the embeddings [N, D]; raises the first image's error, saying which image it is."""
    for index, result in enumerate(results):
        if isinstance(result, RequestError):
            if len(results) == 1:
                raise result
            raise type(result)(
                f"image {index + 1} of {len(results)}: {result}",
                retry_after_s=result.retry_after_s,
            )
    return np.stack([_finite(each) for each in results if isinstance(each, ImageResult)])


def _finite(result: ImageResult) -> NDArray[np.float32]:
    embedding = result.outputs[EMBEDDING]
    if not np.isfinite(embedding).all():
        raise InferenceError("the model returned no finite embedding for this image")
    return embedding


def _bytes_of(results: Sequence[ImageResult | RequestError]) -> int:
    return sum(each.outputs[EMBEDDING].nbytes for each in results if isinstance(each, ImageResult))
