"""The outputs that answer a V2 inference request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.contract import CLASSIFIER_WEIGHT, Label
from service.errors import InferenceError, RequestError
from service.inference.request import ImageResult, all_answered
from service.kserve.request import InferRequest, WantedOutput
from service.kserve.tensors import BYTES, FP32, OutputTensor, count_of
from service.models.model import ServedModel
from service.postprocess.top_k import top_k

_BYTES_EACH = 4


@dataclass(slots=True)
class InferResponse:
    """The answer to a request."""

    model_name: str
    model_version: str
    id: str
    outputs: Sequence[OutputTensor]

    @property
    def size(self) -> int:
        """Return about how many bytes the outputs take."""
        return sum(_BYTES_EACH * count_of(output.shape) for output in self.outputs)


def respond(
    request: InferRequest, model: ServedModel, results: Sequence[ImageResult | RequestError]
) -> InferResponse:
    """Return the answer to a request.

    The protocol has no error for a single image, so the first one's is that of the request. Raises
    it, or `InferenceError` if the model gave numbers that are not finite.
    """
    good = all_answered(results)
    outputs = [_output(wanted, model, good) for wanted in request.wanted]
    return InferResponse(model.name, str(model.version), request.id, outputs)


def _output(wanted: WantedOutput, model: ServedModel, results: list[ImageResult]) -> OutputTensor:
    name = wanted.name
    if wanted.classes:
        count = min(wanted.classes, len(model.contract.labels))
        labels = model.contract.labels
        texts = [
            text for result in results for text in _classes(result.probabilities, labels, count)
        ]
        return OutputTensor(name, BYTES, [len(results), count], texts, wanted.binary)
    if name == CLASSIFIER_WEIGHT:  # the same for every image
        data = results[0].outputs[name]
    elif len(results) == 1:
        data = results[0].outputs[name][None]
    else:
        data = np.stack([result.outputs[name] for result in results])
    if not np.isfinite(data).all():
        raise InferenceError(f"the model returned {name} that are not finite")
    return OutputTensor(name, FP32, data.shape, data, wanted.binary)


def _classes(probabilities: NDArray[np.float32], labels: Sequence[Label], count: int) -> list[str]:
    """Return `value:index:label` of the most probable classes (Triton's classification)."""
    return [
        f"{probability:.6f}:{index}:{labels[index].label}"
        for index, probability in top_k(probabilities, count)
    ]
