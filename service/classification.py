"""The labels of one image, as the Python interfaces give them, over HTTP and in process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import ClientError, RequestError


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label of an image."""

    id: str
    label: str
    index: int
    """Of the class in the model's output."""
    probability: float


@dataclass(frozen=True, slots=True)
class Classification:
    """The most probable labels of one image, best first."""

    labels: tuple[Prediction, ...]
    width: int
    """Of the image as displayed, in pixels."""
    height: int
    model: str
    version: int

    @property
    def best(self) -> Prediction:
        """Return the most probable label."""
        return self.labels[0]


ImageError = RequestError | ClientError
"""Why an image has no labels."""

Result = Classification | ImageError
"""What becomes of one of several images."""


def classification_of(result: Mapping[str, Any], model: str, version: int) -> Classification:
    """Return the classification in one of the `results` of `POST /v1/classify`."""
    return Classification(
        tuple(
            Prediction(each["id"], each["label"], each["index"], each["probability"])
            for each in result["labels"]
        ),
        result["width"],
        result["height"],
        model,
        version,
    )
