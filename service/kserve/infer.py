"""An inference request, from its tensors to those that answer it; the same for every door."""

from __future__ import annotations

from service.inference.deadline import RequestDeadline
from service.inference.record import RequestRecord
from service.inference.request import InferenceRequest
from service.inference.runtime import Runtime
from service.kserve.request import InferRequest, images_of
from service.kserve.response import InferResponse, respond
from service.models.model import ServedModel


async def run(
    runtime: Runtime,
    model: ServedModel,
    request: InferRequest,
    due: RequestDeadline,
    record: RequestRecord,
) -> InferResponse:
    """Return the answer; raises the error of the request or of its first image that failed."""
    request.check()
    images = images_of(request, model, runtime.settings.max_images)
    record.images = len(images)
    results = await runtime.inference.run(
        InferenceRequest(
            model, images, due, record.request_id, record.stages, request.output_names()
        )
    )
    return respond(request, model, results)
