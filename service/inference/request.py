"""What is asked of the pipeline, and what it answers: plain data.

Not frozen: making a frozen one takes three times as long, and one is made for each request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.errors import RequestError
from service.inference.deadline import RequestDeadline
from service.models.model import ServedModel


@dataclass(slots=True)
class StageTimings:
    """How long the stages took, in seconds; of several images, the longest of each."""

    decode_s: float | None = None
    queue_s: float | None = None
    infer_s: float | None = None
    batch_size: int = 0

    def note_decode(self, seconds: float) -> None:
        """Note that an image is decoded."""
        self.decode_s = max(seconds, self.decode_s or 0.0)

    def note_batch(self, queue_s: float, infer_s: float, batch_size: int) -> None:
        """Note that an image has run."""
        self.queue_s = max(queue_s, self.queue_s or 0.0)
        self.infer_s = max(infer_s, self.infer_s or 0.0)
        self.batch_size = max(batch_size, self.batch_size)


@dataclass(slots=True)
class InferenceRequest:
    """Encoded images for one model; in the place of one, the error by which it was refused."""

    model: ServedModel
    images: Sequence[bytes | RequestError]
    due: RequestDeadline
    request_id: str
    timings: StageTimings = field(default_factory=StageTimings)
    """Filled in as the stages pass, also where the request fails."""


@dataclass(slots=True)
class ImageResult:
    """What the model says of one image."""

    probabilities: NDArray[np.float32]  # [C]
    width: int  # of the image as it is displayed, in pixels
    height: int
