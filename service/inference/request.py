"""The pipeline's requests and results: plain data.

Not frozen: creating a frozen instance takes three times as long, and each request needs some.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.batching.ticket import ONLY_PROBABILITIES
from service.contract import PROBABILITIES
from service.errors import RequestError
from service.inference.deadline import RequestDeadline
from service.models.model import ServedModel

Image = bytes | NDArray[np.uint8]
"""An encoded image, or its pixels."""


@dataclass(slots=True)
class StageTimings:
    """How long each stage took, in seconds; of several images, the longest."""

    decode_s: float | None = None
    queue_s: float | None = None
    infer_s: float | None = None
    explain_s: float | None = None  # computing and drawing a map, with the wait for a thread
    batch_size: int = 0

    def note_decode(self, seconds: float) -> None:
        """Record an image's decoding time."""
        self.decode_s = max(seconds, self.decode_s or 0.0)

    def note_batch(self, queue_s: float, infer_s: float, batch_size: int) -> None:
        """Record the times and the batch size of an image that was run."""
        self.queue_s = max(queue_s, self.queue_s or 0.0)
        self.infer_s = max(infer_s, self.infer_s or 0.0)
        self.batch_size = max(batch_size, self.batch_size)


@dataclass(slots=True)
class InferenceRequest:
    """Images for one model: encoded, or as the pixels that the model sees.

    Pixels are uint8 [H, W, 3], RGB, resized and cropped as the model's contract says. A refused
    image is replaced by its error.
    """

    model: ServedModel
    images: Sequence[Image | RequestError]
    due: RequestDeadline
    request_id: str
    timings: StageTimings = field(default_factory=StageTimings)
    """Filled in stage by stage, even if the request fails."""
    outputs: tuple[str, ...] = ONLY_PROBABILITIES
    """The outputs of the model that are wanted of each image."""


@dataclass(slots=True)
class ImageResult:
    """The model's answer for one image."""

    outputs: Mapping[str, NDArray[np.float32]]  # without the batch dimension
    width: int  # of the image as displayed, in pixels
    height: int

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Return the probabilities, [C]."""
        return self.outputs[PROBABILITIES]


def all_answered(results: Sequence[ImageResult | RequestError]) -> list[ImageResult]:
    """Return the results, for protocols that have no error for a single image.

    Raises the first error, which says which of several images it is of.
    """
    good: list[ImageResult] = []
    for number, result in enumerate(results):
        if not isinstance(result, RequestError):
            good.append(result)
        elif len(results) == 1:
            raise result
        else:
            raise type(result)(f"image {number}: {result}", retry_after_s=result.retry_after_s)
    return good
