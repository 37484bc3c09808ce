"""Where in an image the evidence for a label lies. Independent of HTTP, like the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from service.batching.costs import Work
from service.batching.decode_pool import DecodePool
from service.contract import CLASSIFIER_WEIGHT, FEATURES, PROBABILITIES
from service.errors import NotReadyError
from service.inference.deadline import RequestDeadline
from service.inference.request import ImageResult
from service.models.model import ServedModel
from service.postprocess.activation import activation_map
from service.postprocess.overlay import BYTES_PER_PIXEL, overlay, png
from service.postprocess.top_k import top_k
from service.preprocess.decode import DecodePolicy
from service.preprocess.picture import decoded_picture
from service.preprocess.transform import Box, input_box

LONGEST_SIDE = 1024
"""Pixels of the long side that an overlay has at most."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """A label's class activation map of one image."""

    index: int  # of the class
    probability: float
    map: NDArray[np.float32]  # [h, w]
    region: Box
    """What the model sees, and so the map covers, in pixels of the image as displayed.

    It reaches beyond an image that is filled up to the model's input."""
    width: int
    height: int


class Explainer:
    """Computes class activation maps and draws them, on the threads that decode images."""

    def __init__(self, decode_pool: DecodePool, policy: DecodePolicy) -> None:
        self._decode_pool, self._policy = decode_pool, policy

    @staticmethod
    def outputs(model: ServedModel) -> tuple[str, ...]:
        """Return the outputs of a model that `explain` needs.

        The classifier's weight is the same for every image, so it is only fetched once.
        """
        needed = PROBABILITIES, FEATURES
        return needed if model.classifier_weight is not None else (*needed, CLASSIFIER_WEIGHT)

    async def explain(
        self, model: ServedModel, result: ImageResult, index: int | None, due: RequestDeadline
    ) -> Explanation:
        """Return the map of a class, or of the most probable one, from an image's `outputs`.

        Raises `InferenceError` if the model overflowed, and `NotReadyError` if it is retired by
        now, and its classifier's weight gone with it.
        """
        if (weight := result.outputs.get(CLASSIFIER_WEIGHT)) is not None:
            weight = model.classifier_weight = weight.copy()  # without the batch's other outputs
        elif (weight := model.classifier_weight) is None:
            raise NotReadyError(f"model {model.name} is not ready: {model.reason}")
        call = partial(_explain, model, result, weight, index)
        work = Work("map", size=result.outputs[FEATURES].nbytes)
        return await self._decode_pool.call(call, due.deadline, due.priority, work)

    async def overlay(
        self, model: ServedModel, image: bytes, explanation: Explanation, due: RequestDeadline
    ) -> bytes:
        """Return the map drawn over the encoded image, upright, as PNG.

        The long side is at most `LONGEST_SIDE` pixels. Raises `ImageTooLargeError` if decoding the
        image and drawing would take more memory than allowed.
        """
        call = partial(_overlay, model, image, explanation, self._policy)
        work = Work("overlay", explanation.width * explanation.height, len(image))
        return await self._decode_pool.call(call, due.deadline, due.priority, work)


def _explain(
    model: ServedModel, result: ImageResult, weight: NDArray[np.float32], index: int | None
) -> Explanation:
    ((best, _),) = top_k(result.probabilities, 1)
    index = best if index is None else index
    size = result.width, result.height
    return Explanation(
        index,
        float(result.probabilities[index]),
        activation_map(result.outputs[FEATURES], weight[index]),
        input_box(*size, model.contract.preprocessing),
        *size,
    )


def _overlay(
    model: ServedModel, image: bytes, explanation: Explanation, policy: DecodePolicy
) -> bytes:
    drawing = BYTES_PER_PIXEL * LONGEST_SIDE**2
    preprocessing = model.contract.preprocessing
    with decoded_picture(image, preprocessing, policy, LONGEST_SIDE, drawing) as picture:
        x = picture.image.width / explanation.width
        y = picture.image.height / explanation.height
        left, top, right, bottom = explanation.region
        drawn = overlay(picture.image, explanation.map, (left * x, top * y, right * x, bottom * y))
        return png(picture.upright(drawn))
