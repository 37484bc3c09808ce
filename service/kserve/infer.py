"""An inference request, from its tensors to those that answer it; the same for every door."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from service.batching.costs import Work
from service.errors import RequestError
from service.inference.deadline import RequestDeadline
from service.inference.record import RequestRecord
from service.inference.request import Image, InferenceRequest
from service.inference.runtime import Runtime
from service.kserve.request import InferRequest, images_of
from service.kserve.response import InferResponse, respond
from service.models.model import ServedModel

T = TypeVar("T")

_AT_ONCE = 64 * 1024
"""Up to this many bytes, work is done on the event loop: a hop to a thread takes longer."""


async def at_once_or_in_thread(
    runtime: Runtime, call: Callable[[], T], due: RequestDeadline, size: int
) -> T:
    """Return the result of a call whose work grows with `size`, in bytes, without blocking."""
    if size <= _AT_ONCE:
        return call()
    work = Work("form", size=size)
    return await runtime.decode_pool.call(call, due.deadline, due.priority, work)


def read(request: InferRequest, model: ServedModel, max_images: int) -> list[Image | RequestError]:
    """Return the images of a request that asks for nothing that models don't answer."""
    request.check()
    return images_of(request, model, max_images)


async def run(
    runtime: Runtime,
    model: ServedModel,
    request: InferRequest,
    images: Sequence[Image | RequestError],
    due: RequestDeadline,
    record: RequestRecord,
) -> InferResponse:  # fmt: skip
    """Return the answer; raises the error of the request or of its first image that failed."""
    record.images = len(images)
    results = await runtime.inference.run(
        InferenceRequest(
            model, images, due, record.request_id, record.stages, request.output_names()
        )
    )
    return respond(request, model, results)
