"""Answers with a result for each image, built from a request's results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from service.contract import Label
from service.errors import AllImagesFailedError, RequestError
from service.http.bodies import PostedImage
from service.inference.record import RequestRecord
from service.inference.request import ImageResult
from service.inference.selection import Selection
from service.models.model import ServedModel


def classification(
    model: ServedModel,
    images: Sequence[PostedImage],
    results: Sequence[ImageResult | RequestError],
    selection: Selection,
    record: RequestRecord,
) -> dict[str, Any]:
    """Return the answer to a classify request: each image's labels that are selected."""
    show = partial(_shown_labels, labels=model.contract.labels, selection=selection)
    return answer(model, images, results, show, record)


def answer(
    model: ServedModel,
    images: Sequence[PostedImage],
    results: Sequence[ImageResult | RequestError],
    show: Callable[[ImageResult], dict[str, Any]],
    record: RequestRecord,
) -> dict[str, Any]:
    """Return an answer in which `show` shows each image's result; a failed one has its error.

    Raises an error if no image succeeded: a single image's own error; the first error if all are
    the service's fault, as when a device is lost (a proxy or client retries after a 503); otherwise
    `AllImagesFailedError`.
    """
    shown = _shown_results(images, results, show)
    return {
        "model": model.name,
        "version": model.version,
        "results": shown,
        "timings_ms": shown_timings(record),
    }


def shown_timings(record: RequestRecord) -> dict[str, float]:
    """Return the milliseconds of each stage and, up to now, in total."""
    return record.timings_ms() | {"total": round(record.elapsed_s() * 1000, 3)}


def _shown_results(
    images: Sequence[PostedImage],
    results: Sequence[ImageResult | RequestError],
    show: Callable[[ImageResult], dict[str, Any]],
) -> list[dict[str, Any]]:
    failures = [result for result in results if isinstance(result, RequestError)]
    if len(failures) == len(results) and (
        len(results) == 1 or all(failure.status >= 500 for failure in failures)
    ):
        raise failures[0]
    shown = [
        _named(image, _shown_error(result))
        if isinstance(result, RequestError)
        else _named(image, show(result))
        for image, result in zip(images, results, strict=True)
    ]
    if len(failures) == len(results):
        raise AllImagesFailedError(f"all {len(images)} images failed; see results", shown)
    return shown


def _shown_labels(
    result: ImageResult, labels: Sequence[Label], selection: Selection
) -> dict[str, Any]:
    return {
        "labels": [
            shown_label(labels, index, probability)
            for index, probability in selection.labels(result.probabilities)
        ],
        **selection.facts(result),
        "width": result.width,
        "height": result.height,
    }


def shown_label(labels: Sequence[Label], index: int, probability: float) -> dict[str, Any]:
    """Return a class and its probability as answers show them."""
    label = labels[index]
    return {
        "id": label.id,
        "label": label.label,
        "index": index,
        "probability": round(probability, 6),
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
