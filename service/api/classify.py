"""POST /v1/classify: images in, labels out."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic_core import to_json
from starlette.responses import Response

from service.api.deadline import Urgency, until_deadline, urgency_of
from service.api.forms import EncodedImages, form_of
from service.api.openapi import CLASSIFY_BODY, problems
from service.api.parameters import WholeNumber
from service.api.problems import known_error
from service.api.schemas import Classification
from service.api.state import Service, service_of
from service.api.trace import Trace, trace_of
from service.api.upload import cancelled_when_client_leaves, read_body
from service.batching.batcher import Batcher
from service.batching.ticket import Ticket
from service.contract import Preprocessing
from service.errors import AllImagesFailedError, InternalError, RequestError, TopKError
from service.postprocess.top_k import top_k
from service.preprocess.decode import DecodedImage, DecodePolicy, decode
from service.repository import ServedModel

_PROBLEMS = problems(
    s400="Bad parameter or malformed body",
    s404="Unknown model",
    s408="The body took too long",
    s413="Body, image or number of images too large",
    s415="Not an accepted form of body or image format",
    s422="An image that can't be decoded, or all of several",
    s500="Internal error; the log has its cause under the request id",
    s503="Queue full, deadline out of reach, model not ready or stopping; see Retry-After",
    s504="The deadline passed before the answer was there",
)
_DEFAULT_TOP_K = 5

router = APIRouter()


@router.post(
    "/v1/classify",
    response_model=Classification,
    responses=_PROBLEMS,
    openapi_extra=CLASSIFY_BODY,
    summary="Classify one or several images",
)
async def classify(
    request: Request,
    top: Annotated[
        WholeNumber | None,
        Query(alias="top_k", description="labels for each image; default 5, or all of fewer"),
    ] = None,
    model: Annotated[str | None, Query(description="model name; see /v1/models")] = None,
    version: Annotated[
        WholeNumber | None, Query(description="model version; default the highest")
    ] = None,
) -> Response:
    """Give the most probable labels of each image.

    The body is an image, a form of files, or JSON with base64. Its content decides the image
    format: JPEG, PNG, WebP, GIF, BMP or TIFF. A single image's error is the status of the answer;
    of several images, each has its labels or its error.
    """
    service, trace = service_of(request), trace_of(request)
    served = service.repository.find(model, version)
    trace.model = served.name
    labels = _labels_wanted(top, served)
    batcher = served.batcher()
    urgency = urgency_of(request.headers, trace, service.settings, served.name)
    parse = form_of(request.headers.get("content-type"))
    # What can't be answered in time is refused before its body is read.
    served.gate.check(1, urgency.left_s(), urgency.priority)

    async with (
        until_deadline(urgency),
        read_body(request, trace, service.settings, service.body_bytes) as body,
        cancelled_when_client_leaves(request),
    ):
        images: EncodedImages = [body]
        if parse is not None:
            images = await service.off_loop(partial(parse, body, service.settings.max_images))
        trace.images = len(images)
        with served.gate.admit(len(images), urgency.left_s(), urgency.priority):
            road = _Road(service, served, batcher, trace, labels, urgency)
            results = await road.classify_all(images)
    return _answer(served, trace, results)


def _labels_wanted(top: int | None, served: ServedModel) -> int:
    classes = len(served.contract.labels)
    if top is None:
        return min(_DEFAULT_TOP_K, classes)
    if not 1 <= top <= classes:
        raise TopKError(f"top_k is {top}; {served.name} allows 1 to {classes}")
    return top


class _Road:
    """One request's way from encoded images to labels."""

    def __init__(
        self,
        service: Service,
        served: ServedModel,
        batcher: Batcher,
        trace: Trace,
        top: int,
        urgency: Urgency,
    ) -> None:
        self._service, self._served, self._batcher = service, served, batcher
        self._trace, self._top, self._urgency = trace, top, urgency

    async def classify_all(self, images: EncodedImages) -> list[dict[str, Any]]:
        """Give each image's result; the error of an only image is raised."""
        if len(images) == 1:
            return [await self._counted(images[0])]
        results = await asyncio.gather(*map(self._result_or_error, images))
        if all("error" in result for result in results):
            raise AllImagesFailedError(f"all {len(images)} images failed; see results", results)
        return results

    async def _result_or_error(self, image: bytes | RequestError) -> dict[str, Any]:
        try:
            return await self._counted(image)
        except Exception as error:  # noqa: BLE001 - one image's failure must not reach another
            shown = known_error(error, self._trace)
            return {
                "error": {
                    "code": shown.code,
                    "status": shown.status,
                    "title": shown.title,
                    "detail": str(shown),
                }
            }

    async def _counted(self, image: bytes | RequestError) -> dict[str, Any]:
        count = self._served.metrics.images
        try:
            result = await self._classify(image)
        except RequestError as error:
            count(error.code).inc()
            raise
        except asyncio.CancelledError:
            count("cancelled").inc()
            raise
        except Exception:
            count(InternalError.code).inc()
            raise
        count("ok").inc()
        return result

    async def _classify(self, image: bytes | RequestError) -> dict[str, Any]:
        if isinstance(image, RequestError):
            raise image
        decoded = await self._decode(image)
        ticket = Ticket(
            decoded.pixels,
            asyncio.get_running_loop().create_future(),
            time.perf_counter(),
            self._urgency.deadline,
            self._urgency.priority,
        )
        self._batcher.submit(ticket)
        answer = await ticket.future
        self._trace.note_batch(answer.queue_s, answer.infer_s, answer.batch_size)
        labels = self._served.contract.labels
        return {
            "labels": [
                {
                    "id": labels[index].id,
                    "label": labels[index].label,
                    "index": index,
                    "probability": round(probability, 6),
                }
                for index, probability in top_k(answer.probabilities, self._top)
            ],
            "width": decoded.width,
            "height": decoded.height,
        }

    async def _decode(self, image: bytes) -> DecodedImage:
        started = time.perf_counter()
        with self._service.decoding.counted():
            decoded, thread_s = await self._service.off_loop(
                partial(
                    _timed_decode,
                    image,
                    self._served.contract.preprocessing,
                    self._service.decode_policy,
                )
            )
        self._service.decoding.note(thread_s)
        seconds = time.perf_counter() - started
        self._trace.note_decode(seconds)
        self._service.metrics.decode_seconds.observe(seconds)
        return decoded


def _timed_decode(
    image: bytes, preprocessing: Preprocessing, policy: DecodePolicy
) -> tuple[DecodedImage, float]:
    """Decode, and tell the seconds on the thread, without the wait for it."""
    started = time.perf_counter()
    return decode(image, preprocessing, policy), time.perf_counter() - started


def _answer(served: ServedModel, trace: Trace, results: list[dict[str, Any]]) -> Response:
    timings = trace.timings_ms() | {"total": round(trace.elapsed_s() * 1000, 3)}
    body = {
        "model": served.name,
        "version": served.version,
        "results": results,
        "timings_ms": timings,
    }
    return Response(to_json(body), media_type="application/json")
