"""POST /v1/explain: an image in, a label's class activation map out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from service.batching.costs import Work
from service.errors import RequestError, TooManyImagesError
from service.http.accept import JSON, OCTETS, PNG, preferred
from service.http.bodies import PostedImage, body_parser_of
from service.http.exchange import Exchange
from service.http.json_body import float32_numbers, json_body
from service.http.query import label_wanted, read_query
from service.http.results import shown_label, shown_timings
from service.http.schemas import ExplainQuery
from service.http.stages import find_model, infer, off_the_loop, parsed_images, received
from service.http.time_limit import deadline_of
from service.inference.explanation import Explanation
from service.inference.record import RequestRecord
from service.models.model import ServedModel

_SIDES = "left", "top", "right", "bottom"


async def explain(exchange: Exchange) -> None:
    """Return where in an image the evidence for a label lies: its class activation map.

    The body has one image, in any form that a classify request may have. The answer is, by
    `Accept`: the map drawn over the image, upright, with a long side of at most 1024 pixels, as PNG
    (the default; what the model does not see is shaded); the map as JSON; or, as
    `application/octet-stream`, the map as float32, little-endian, with its shape in `X-Shape` and
    the part of the image that it covers in `X-Region`. Averaged over the map, the values give the
    label's logit without its bias.
    """
    record, explainer = exchange.record, exchange.runtime.explainer
    query = read_query(exchange.query_string, ExplainQuery)
    model = find_model(exchange, query.model, query.version)
    index = label_wanted(query.label, model)
    media_type = preferred(exchange.headers.get(b"accept"), (PNG, JSON, OCTETS))
    due = deadline_of(exchange.headers, record, model.timeout_ms)
    parse = body_parser_of(exchange.headers.get(b"content-type"))
    outputs = explainer.outputs(model)

    async with received(exchange, model, due, outputs=outputs) as body:
        images = await parsed_images(exchange, body, parse, due)
        del body  # its parts are copies
        image = _only(images)
        (result,) = await infer(exchange, model, images, due, outputs)
        if isinstance(result, RequestError):
            raise result
        inferred_s = record.elapsed_s()
        found = await explainer.explain(model, result, index, due)
        if media_type == PNG:
            content = await explainer.overlay(model, image, found, due)
        record.stages.explain_s = record.elapsed_s() - inferred_s
        if media_type == JSON:
            show = partial(_shown, model, found, record)
            content = await off_the_loop(
                exchange, show, due, Work("numbers", size=found.map.nbytes)
            )

    if media_type == OCTETS:
        await exchange.respond_array(found.map, _about(found))
    else:
        await exchange.respond(200, media_type, content, _about(found))


def _only(images: Sequence[PostedImage]) -> bytes:
    """Return the content of the only image; raises `TooManyImagesError` or the image's error."""
    if len(images) > 1:
        raise TooManyImagesError(
            f"the request holds {len(images)} images; this route takes one at a time"
        )
    (image,) = images
    if isinstance(image.content, RequestError):
        raise image.content
    return image.content


def _about(found: Explanation) -> dict[str, str]:
    """Return the headers that say what was explained."""
    return {"x-label-index": str(found.index), "x-region": ",".join(map(str, _region(found)))}


def _region(found: Explanation) -> list[float]:
    return [round(side, 3) for side in found.region]


def _shown(model: ServedModel, found: Explanation, record: RequestRecord) -> bytes:
    return json_body(
        {
            "model": model.name,
            "version": model.version,
            "label": shown_label(model.contract.labels, found.index, found.probability),
            "map": float32_numbers(found.map),
            "region": dict(zip(_SIDES, _region(found), strict=True)),
            "width": found.width,
            "height": found.height,
            "timings_ms": shown_timings(record),
        }
    )
