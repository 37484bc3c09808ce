"""POST /v1/classify: images in, labels out."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any
from urllib.parse import parse_qsl

from pydantic import ValidationError

from service.batching.batcher import Batcher
from service.batching.costs import NO_WORK, Work
from service.batching.ticket import ImageResult, Ticket
from service.errors import (
    AllImagesFailedError,
    DeadlineExceededError,
    InternalError,
    InvalidParameterError,
    RequestError,
    TopKError,
)
from service.http.bodies import BodyParser, PostedImage, body_parser_of
from service.http.coalescing import PendingImage, answer_of
from service.http.deadline import RequestDeadline, TimeLimit, deadline_of
from service.http.exchange import Exchange
from service.http.json_body import json_body
from service.http.problems import invalid_parameters, known_error
from service.http.record import RequestRecord
from service.http.runtime import Runtime
from service.http.schemas import ClassifyQuery
from service.http.upload import HeldBytes, read_body
from service.models.model import ServedModel
from service.postprocess.top_k import top_k
from service.preprocess.decode import DecodedImage, decode, decode_at_once
from service.preprocess.header import read_header
from service.tracebacks import forget_frames
from service.wording import shortened

_DEFAULT_TOP_K = 5


class Classify:
    """The handler. `service/http/openapi.py` documents it."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def __call__(self, exchange: Exchange) -> None:
        """Answer with the most probable labels of each image."""
        runtime, record = self._runtime, exchange.record
        settings = runtime.settings
        query = _read_query(exchange.query_string)
        served = runtime.repository.find(query.model, query.version)
        record.model = served.name
        labels = _labels_wanted(query.top_k, served)
        batcher = served.batcher()
        due = deadline_of(exchange.headers, record, settings, served.name)
        parse = body_parser_of(exchange.headers.get(b"content-type"))
        # What can't be answered in time is refused before its body is read.
        served.gate.check(1, due.deadline, due.priority)

        async with TimeLimit(due, record, settings.body_timeout_s) as limit:
            with HeldBytes(runtime.body_bytes) as held:
                body = await read_body(exchange, held, settings.max_body_bytes)
                limit.body_is_read()
                with exchange.cancelled_when_client_leaves():
                    images = [PostedImage(body)]
                    if parse is not None:
                        images = await self._parse(parse, body, due)
                    del body  # its parts are copies
                    record.images = len(images)
                    works = [_work(image.content, served, runtime) for image in images]
                    with served.gate.admit(
                        len(images), due.deadline, due.priority, works
                    ) as reservation:
                        if reservation.is_tried:
                            due = replace(due, is_tried=True)
                        road = _Road(runtime, served, batcher, record, labels, due)
                        results = await road.classify_all(images)
                        if road.ran == len(images):
                            reservation.answered()
        await exchange.respond(200, "application/json", _answer(served, record, results))

    async def _parse(
        self, parse: BodyParser, body: bytes, due: RequestDeadline
    ) -> list[PostedImage]:
        """Take a form apart, off the event loop: a large one takes its time."""
        call = partial(parse, body, self._runtime.settings.max_images)
        work = Work("form", size=len(body))
        return await self._runtime.decode_pool.call(call, due.deadline, due.priority, work)


@lru_cache(maxsize=64)
def _read_query(query_string: bytes) -> ClassifyQuery:
    """Judge the query; clients send few different ones. Raises `InvalidParameterError`."""
    query: dict[str, str] = {}
    for name, value in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        if name not in ClassifyQuery.model_fields:
            allowed = ", ".join(ClassifyQuery.model_fields)
            raise InvalidParameterError(
                f"there is no parameter {shortened(name)!r}; allowed are {allowed}"
            )
        if name in query:
            raise InvalidParameterError(f"{name} is given twice")
        query[name] = value
    try:
        return ClassifyQuery.model_validate(query)
    except ValidationError as error:
        raise invalid_parameters(error.errors()) from None


def _labels_wanted(top: int | None, served: ServedModel) -> int:
    classes = len(served.contract.labels)
    if top is None:
        return min(_DEFAULT_TOP_K, classes)
    if not 1 <= top <= classes:
        raise TopKError(f"top_k is {top}; {served.name} allows 1 to {classes}")
    return top


def _work(image: bytes | RequestError, served: ServedModel, runtime: Runtime) -> Work:
    """Say what is known of an image before it is decoded; of one that will be refused, nothing."""
    if isinstance(image, RequestError):
        return NO_WORK
    policy = runtime.decode_policy
    header = read_header(image, served.contract.preprocessing, policy.jpeg_draft_ratio)
    if header.pixels > policy.max_image_pixels:
        return NO_WORK
    return Work(header.kind, header.pixels, len(image))


class _Road:
    """One request's way from encoded images to labels."""

    def __init__(
        self,
        runtime: Runtime,
        served: ServedModel,
        batcher: Batcher,
        record: RequestRecord,
        top: int,
        due: RequestDeadline,
    ) -> None:
        self._runtime, self._served, self._batcher = runtime, served, batcher
        self._record, self._top, self._due = record, top, due
        self._begun = 0
        self._failures: list[RequestError] = []
        self.ran = 0
        """Images that were run for this request, and not for another that sent the same ones."""

    async def classify_all(self, images: list[PostedImage]) -> list[dict[str, Any]]:
        """Give each image's result; the error of an only image is raised.

        So is the first where every image failed for no fault of its own, as when a device is lost:
        a proxy or client that sees a 503 tries again.
        """
        if len(images) == 1:
            return [_named(images[0], await self._counted(images[0].content))]
        try:
            results = await asyncio.gather(*map(self._result_or_error, images))
        except asyncio.CancelledError:
            # A task that is cancelled before its first step runs nothing that could count.
            self._served.metrics.images["cancelled"].inc(len(images) - self._begun)
            raise
        if len(self._failures) == len(images):
            if all(failure.status >= 500 for failure in self._failures):
                raise self._failures[0]
            raise AllImagesFailedError(f"all {len(images)} images failed; see results", results)
        return results

    async def _result_or_error(self, image: PostedImage) -> dict[str, Any]:
        try:
            result = await self._counted(image.content)
        except Exception as error:  # noqa: BLE001 - one image's failure must not reach another
            shown = known_error(error, self._record)
            forget_frames(error, logged=True)
            self._failures.append(shown)
            result = {
                "error": {
                    "code": shown.code,
                    "status": shown.status,
                    "title": shown.title,
                    "detail": str(shown),
                }
            }
        return _named(image, result)

    async def _counted(self, image: bytes | RequestError) -> dict[str, Any]:
        self._begun += 1
        count = self._served.metrics.images
        try:
            result = await self._classify(image)
        except RequestError as error:
            count[error.code].inc()
            raise
        except asyncio.CancelledError:
            count["cancelled"].inc()
            raise
        except Exception:
            count[InternalError.code].inc()
            raise
        count["ok"].inc()
        return result

    async def _classify(self, image: bytes | RequestError) -> dict[str, Any]:
        if isinstance(image, RequestError):
            raise image
        pending, answer = await self._answer_for(image)
        self._record.note_batch(answer.queue_s, answer.infer_s, answer.batch_size)
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
            "width": pending.width,
            "height": pending.height,
        }

    async def _answer_for(self, image: bytes) -> tuple[PendingImage, ImageResult]:
        coalescer, due = self._runtime.coalescer, self._due
        if coalescer is None:
            pending = PendingImage(due)
            self._start(image, pending)
            try:
                answer = await pending.future
            finally:
                self._note_decode(pending)
            self.ran += 1
            return pending, answer
        model = f"{self._served.name}/{self._served.version}"
        while True:
            pending, joined = coalescer.join(model, image, due, partial(self._start, image))
            try:
                answer = await answer_of(pending)
            except DeadlineExceededError:
                # The other's deadline was earlier; this one may still make its own.
                if not joined or due.left_s() <= 0:
                    raise
            else:
                if joined:
                    self._served.metrics.coalesced.inc()
                else:
                    self.ran += 1
                return pending, answer
            finally:
                self._note_decode(pending)

    def _start(self, image: bytes, pending: PendingImage) -> None:
        """Send an image on its way: one hop to a thread, and one back with the batch's answer.

        A small image is decoded here, since the hop would take longer.
        """
        preprocessing, policy = self._served.contract.preprocessing, self._runtime.decode_policy
        try:
            if decoded := decode_at_once(image, preprocessing, policy):
                self._queue(decoded, pending, wake=True)
                return
        except Exception as error:  # noqa: BLE001 - as of a job: whatever it is, who waits must hear
            forget_frames(error)
            pending.future.set_exception(error)
            return
        self._runtime.decode_pool.submit(
            partial(self._decode, image, pending),
            pending.future,
            pending.due.deadline,
            pending.due.priority,
            _work(image, self._served, self._runtime),
        )

    def _decode(self, image: bytes, pending: PendingImage) -> None:
        """Decode on a thread of the pool; once that is done it looks for work by itself."""
        decoded = decode(image, self._served.contract.preprocessing, self._runtime.decode_policy)
        self._queue(decoded, pending, wake=False)

    def _queue(self, decoded: DecodedImage, pending: PendingImage, *, wake: bool) -> None:
        """Queue an image's pixels; the batch resolves the future."""
        now = time.perf_counter()
        pending.decode_s = now - pending.started
        pending.width, pending.height = decoded.width, decoded.height
        self._runtime.metrics.decode_seconds.observe(pending.decode_s)
        due = pending.due
        self._batcher.submit(
            Ticket(
                decoded.pixels,
                pending.future,
                now,
                due.deadline,
                due.priority,
                pending.started,
                due.is_tried,
            ),
            wake=wake,
        )

    def _note_decode(self, pending: PendingImage) -> None:
        if pending.decode_s is not None:
            self._record.note_decode(pending.decode_s)


def _named(image: PostedImage, result: dict[str, Any]) -> dict[str, Any]:
    """Put the name that a form gives an image before its result."""
    return result if image.name is None else {"name": image.name} | result


def _answer(served: ServedModel, record: RequestRecord, results: list[dict[str, Any]]) -> bytes:
    return json_body(
        {
            "model": served.name,
            "version": served.version,
            "results": results,
            "timings_ms": record.timings_ms() | {"total": round(record.elapsed_s() * 1000, 3)},
        }
    )
