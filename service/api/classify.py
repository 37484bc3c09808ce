"""POST /v1/classify: images in, labels out."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache, partial
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError
from pydantic_core import to_json

from service.api.deadline import Urgency, until_deadline, urgency_of
from service.api.exchange import Exchange
from service.api.forms import EncodedImages, form_of
from service.api.problems import invalid_parameters, known_error
from service.api.schemas import ClassifyQuery
from service.api.state import Service
from service.api.trace import Trace
from service.api.upload import read_body
from service.batching.batcher import Batcher
from service.batching.ticket import Ticket
from service.contract import Preprocessing
from service.errors import AllImagesFailedError, InternalError, RequestError, TopKError
from service.postprocess.top_k import top_k
from service.preprocess.decode import DecodedImage, DecodePolicy, decode
from service.repository import ServedModel

_DEFAULT_TOP_K = 5


class Classify:
    """The handler. `service/api/openapi.py` documents it."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, exchange: Exchange) -> None:
        """Answer with the most probable labels of each image."""
        service, trace = self._service, exchange.trace
        query = _read_query(exchange.query_string)
        served = service.repository.find(query.model, query.version)
        trace.model = served.name
        labels = _labels_wanted(query.top_k, served)
        batcher = served.batcher()
        urgency = urgency_of(exchange.headers, trace, service.settings, served.name)
        parse = form_of(exchange.headers.get(b"content-type"))
        # What can't be answered in time is refused before its body is read.
        served.gate.check(1, urgency.left_s(), urgency.priority)

        async with (
            until_deadline(urgency),
            read_body(exchange, service.settings, service.body_bytes) as body,
        ):
            with exchange.cancelled_when_client_leaves():
                images: EncodedImages = [body]
                if parse is not None:
                    images = await service.off_loop(
                        partial(parse, body, service.settings.max_images)
                    )
                trace.images = len(images)
                with served.gate.admit(len(images), urgency.left_s(), urgency.priority):
                    road = _Road(service, served, batcher, trace, labels, urgency)
                    results = await road.classify_all(images)
        await exchange.respond(200, b"application/json", _answer(served, trace, results))


@lru_cache(maxsize=256)
def _read_query(query_string: bytes) -> ClassifyQuery:
    """Judge the query; clients send few different ones. Raises `InvalidParameterError`."""
    pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True)
    try:
        return ClassifyQuery.model_validate(dict(pairs))
    except ValidationError as error:
        raise invalid_parameters(error.errors()) from None


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


def _answer(served: ServedModel, trace: Trace, results: list[dict[str, Any]]) -> bytes:
    return to_json(
        {
            "model": served.name,
            "version": served.version,
            "results": results,
            "timings_ms": trace.timings_ms() | {"total": round(trace.elapsed_s() * 1000, 3)},
        }
    )
