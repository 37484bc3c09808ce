"""The answer to a classify request, built from its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.contract import Label
from service.errors import AllImagesFailedError, RequestError
from service.http.bodies import PostedImage
from service.inference.record import RequestRecord
from service.inference.request import ImageResult
from service.models.model import ServedModel
from service.postprocess.top_k import top_k


def classification(
    model: ServedModel,
    images: Sequence[PostedImage],
    results: Sequence[ImageResult | RequestError],
    top: int,
    record: RequestRecord,
) -> dict[str, Any]:
    """Return the answer: each image's `top` most probable labels, or its error.

    Raises an error if no image succeeded: a single image's own error; the first error if all are
    the service's fault, as when a device is lost (a proxy or client retries after a 503); otherwise
    `AllImagesFailedError`.
    """
    shown = _shown_results(images, results, model.contract.labels, top)
    return {
        "model": model.name,
        "version": model.version,
        "results": shown,
        "timings_ms": record.timings_ms() | {"total": round(record.elapsed_s() * 1000, 3)},
    }


def _shown_results(
    images: Sequence[PostedImage],
    results: Sequence[ImageResult | RequestError],
    labels: Sequence[Label],
    top: int,
) -> list[dict[str, Any]]:
    failures = [result for result in results if isinstance(result, RequestError)]
    if len(failures) == len(results) and (
        len(results) == 1 or all(failure.status >= 500 for failure in failures)
    ):
        raise failures[0]
    shown = [
        _named(image, _shown_error(result))
        if isinstance(result, RequestError)
        else _named(image, _shown_labels(result, labels, top))
        for image, result in zip(images, results, strict=True)
    ]
    if len(failures) == len(results):
        raise AllImagesFailedError(f"all {len(images)} images failed; see results", shown)
    return shown


def _shown_labels(result: ImageResult, labels: Sequence[Label], top: int) -> dict[str, Any]:
    return {
        "labels": [
            {
                "id": labels[index].id,
                "label": labels[index].label,
                "index": index,
                "probability": round(probability, 6),
            }
            for index, probability in top_k(result.probabilities, top)
        ],
        "width": result.width,
        "height": result.height,
    }


def _shown_error(error: RequestError) -> dict[str, Any]:
    return {
        "error": {
            "code": error.code,
            "status": error.status,
            "title": error.title,
            "detail": str(error),
        }
    }


def _named(image: PostedImage, result: dict[str, Any]) -> dict[str, Any]:
    """Put an image's file name, if a form gives one, before its result."""
    return result if image.name is None else {"name": image.name} | result
