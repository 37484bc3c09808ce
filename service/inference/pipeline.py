"""What happens to a request's images: admit, decode, transform, batch.

Each image takes one hop to a thread that decodes it, and one back with its batch's result. Results
are counted here, so that every protocol counts them the same way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.batching.batcher import Batcher
from service.batching.costs import NO_WORK, Work
from service.batching.decode_pool import DecodePool
from service.batching.ticket import ONLY_PROBABILITIES, Ticket, TicketResult
from service.contract import PROBABILITIES
from service.errors import (
    DeadlineExceededError,
    InvalidPixelsError,
    MissingOutputError,
    RequestError,
)
from service.inference.coalescing import Coalescer, PendingImage
from service.inference.deadline import RequestDeadline
from service.inference.request import Image, ImageResult, InferenceRequest
from service.metrics import Metrics
from service.models.model import ServedModel
from service.preprocess.decode import DecodedImage, DecodePolicy, decode, decode_at_once
from service.preprocess.header import read_header
from service.tracebacks import forget_frames, known_error
from service.wording import shortened

Results = list[ImageResult | RequestError]
Run = Callable[[InferenceRequest], Awaitable[Results]]


class Pipeline:
    """Runs requests. Use it only on the event loop on which the models were started."""

    def __init__(
        self, decode_pool: DecodePool, policy: DecodePolicy, metrics: Metrics, *, coalesce: bool
    ) -> None:
        self._decode_pool, self._policy, self._metrics = decode_pool, policy, metrics
        self._coalescer = Coalescer() if coalesce else None
        self.on_answer: Callable[[InferenceRequest, Results, float, Run], None] | None = None
        """Called with each answered request, its results, the seconds that they took, and what runs
        another request without being told here."""

    @staticmethod
    def check(
        model: ServedModel, due: RequestDeadline, outputs: tuple[str, ...] = ONLY_PROBABILITIES
    ) -> None:
        """Refuse a request that can't be answered, or not in time, before its images have arrived.

        Raises `MissingOutputError`, `NotReadyError`, `QueueFullError` or
        `DeadlineUnreachableError`.
        """
        if outputs is not ONLY_PROBABILITIES:
            _check_outputs(model, outputs)
        model.batcher()
        model.gate.check(1, due.deadline, due.priority)

    async def run(self, request: InferenceRequest) -> Results:
        """Return each image's result or error, in the order of the images.

        Raises `MissingOutputError` if the model's file does not have an output, and
        `NotReadyError`, `QueueFullError` or `DeadlineUnreachableError` if the request is not
        admitted. If the caller is cancelled, its queued images are dropped.
        """
        started = time.perf_counter()
        try:
            results = await self._admitted(request)
        except RequestError:
            request.model.totals.failed.add(time.perf_counter() - started)
            raise
        took_s = time.perf_counter() - started
        _count(request, results, took_s)
        if self.on_answer is not None:
            self.on_answer(request, results, took_s, self._admitted)
        return results

    async def _admitted(self, request: InferenceRequest) -> Results:
        model, images, due = request.model, request.images, request.due
        batcher = model.batcher()
        if request.outputs is not ONLY_PROBABILITIES:
            _check_outputs(model, request.outputs)
        works = [self._work(image, model) for image in images]
        with model.gate.admit(len(images), due.deadline, due.priority, works) as reservation:
            if reservation.is_tried:
                due = replace(due, is_tried=True)
            run = _Run(self, request, works, batcher, due, reservation.image_done)
            results = await run.all()
            if run.ran == len(images):
                reservation.answered()
            elif any(isinstance(result, DeadlineExceededError) for result in results):
                reservation.was_late()
        return results

    def pending(self, image: Image, work: Work, run: _Run) -> tuple[PendingImage, bool]:
        """Start an image, or join an identical one; return it, and whether it was joined.

        Raises `InvalidPixelsError`.
        """
        if not isinstance(image, bytes):
            pending = PendingImage(run.due, outputs=run.outputs)
            self._queue(_as_decoded(image, run.model), run.batcher, pending, wake=True)
            return pending, False
        start = partial(self._start, image, work, run.model, run.batcher)
        if self._coalescer is None:
            pending = PendingImage(run.due, outputs=run.outputs)
            start(pending)
            return pending, False
        return self._coalescer.join(run.model, image, run.outputs, run.due, start)

    def _work(self, image: Image | RequestError, model: ServedModel) -> Work:
        """Return the work of decoding, judging by the header; `NO_WORK` if there is none."""
        if not isinstance(image, bytes):
            return NO_WORK
        header = read_header(image, model.contract.preprocessing, self._policy.jpeg_draft_ratio)
        if header.pixels > self._policy.max_image_pixels:
            return NO_WORK
        return Work(header.kind, header.pixels, len(image))

    def _start(
        self,
        image: bytes,
        work: Work,
        model: ServedModel,
        batcher: Batcher,
        pending: PendingImage,
    ) -> None:
        """Start decoding an image; a small one is decoded here, since a hop would take longer."""
        try:
            decoded = decode_at_once(image, model.contract.preprocessing, self._policy)
            if decoded is not None:
                self._note_decoded(pending)
                self._queue(decoded, batcher, pending, wake=True)
                return
        except Exception as error:  # noqa: BLE001 - the waiter must learn of any failure
            forget_frames(error)
            pending.future.set_exception(error)
            return
        self._decode_pool.submit(
            partial(self._decode, image, model, batcher, pending),
            pending.future,
            pending.due.deadline,
            pending.due.priority,
            work,
        )

    def _decode(
        self, image: bytes, model: ServedModel, batcher: Batcher, pending: PendingImage
    ) -> None:
        """Decode on a thread of the pool, which then looks for work without being woken."""
        decoded = decode(image, model.contract.preprocessing, self._policy)
        self._note_decoded(pending)
        self._queue(decoded, batcher, pending, wake=False)

    def _note_decoded(self, pending: PendingImage) -> None:
        pending.decode_s = time.perf_counter() - pending.started
        self._metrics.decode_seconds.observe(pending.decode_s)

    def _queue(
        self, decoded: DecodedImage, batcher: Batcher, pending: PendingImage, *, wake: bool
    ) -> None:
        """Queue an image's pixels; the batch resolves the future."""
        now, due = time.perf_counter(), pending.due
        pending.width, pending.height = decoded.width, decoded.height
        batcher.submit(
            Ticket(
                decoded.pixels,
                pending.future,
                now,
                due.deadline,
                due.priority,
                pending.started,
                due.is_tried,
                outputs=pending.outputs,
            ),
            wake=wake,
        )


class _Run:
    """One admitted request."""

    def __init__(
        self,
        pipeline: Pipeline,
        request: InferenceRequest,
        works: Sequence[Work],
        batcher: Batcher,
        due: RequestDeadline,
        image_done: Callable[[], None],
    ) -> None:
        self._image_done = image_done
        self._pipeline, self._request, self._works = pipeline, request, works
        self.model, self.batcher, self.due = request.model, batcher, due
        self.outputs = request.outputs
        self._outcomes = request.model.metrics.images
        self._begun = 0
        self.ran = 0
        """Images that were run for this request, not for another one with identical images."""

    async def all(self) -> list[ImageResult | RequestError]:
        """Wait for all images and return their results."""
        images: Sequence[Image | RequestError] = self._request.images
        if len(images) == 1:
            return [await self._counted(images[0], self._works[0])]
        try:
            return await asyncio.gather(*map(self._one_of_several, images, self._works))
        except asyncio.CancelledError:
            # A task that is cancelled before its first step can't count its image itself.
            self._outcomes["cancelled"].inc(len(images) - self._begun)
            raise

    async def _one_of_several(
        self, image: Image | RequestError, work: Work
    ) -> ImageResult | RequestError:
        try:
            return await self._counted(image, work)
        finally:
            self._image_done()

    async def _counted(self, image: Image | RequestError, work: Work) -> ImageResult | RequestError:
        self._begun += 1
        try:
            result = await self._result(image, work)
        except asyncio.CancelledError:
            self._outcomes["cancelled"].inc()
            raise
        except Exception as error:  # noqa: BLE001 - one image's failure must not reach another
            shown = known_error(error, self._request.request_id)
            self._outcomes[shown.code].inc()
            forget_frames(error, logged=True)
            return shown
        self._outcomes["ok"].inc()
        return result

    async def _result(self, image: Image | RequestError, work: Work) -> ImageResult:
        if isinstance(image, RequestError):
            raise image
        while True:
            pending, joined = self._pipeline.pending(image, work, self)
            try:
                result: TicketResult = await pending.result()
            except DeadlineExceededError:
                # The other's deadline was earlier; this one may still make its own.
                if not joined or self.due.left_s() <= 0:
                    raise
            else:
                break
            finally:
                if pending.decode_s is not None:
                    self._request.timings.note_decode(pending.decode_s)
        if joined:
            self.model.metrics.coalesced.inc()
        else:
            self.ran += 1
        self._request.timings.note_batch(result.queue_s, result.infer_s, result.batch_size)
        return ImageResult(result.outputs, pending.width, pending.height)


def _count(request: InferenceRequest, results: Results, took_s: float) -> None:
    """Count a request that was carried out among the totals of its model."""
    totals, timings = request.model.totals, request.timings
    if any(isinstance(result, RequestError) for result in results):
        totals.failed.add(took_s)
        return
    decode_s, queue_s, infer_s = timings.decode_s, timings.queue_s, timings.infer_s
    totals.note_answer(took_s, len(results), decode_s or 0.0, queue_s or 0.0, infer_s or 0.0)


def _check_outputs(model: ServedModel, outputs: Sequence[str]) -> None:
    available = (PROBABILITIES, *model.contract.optional_outputs)
    if missing := [name for name in outputs if name not in available]:
        raise MissingOutputError(
            f"model {model.name} has no output {', '.join(map(shortened, missing[:5]))}; "
            f"its file has: {', '.join(available)}"
        )


def _as_decoded(pixels: NDArray[np.uint8], model: ServedModel) -> DecodedImage:
    """Return pixels that came as such; raises `InvalidPixelsError` if the model takes no such."""
    height, width = model.contract.preprocessing.input_size
    if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
        raise InvalidPixelsError(
            f"model {model.name} takes pixels as uint8 {[height, width, 3]}, "
            f"got {pixels.dtype} {list(pixels.shape)}"
        )
    return DecodedImage(pixels, width, height)
