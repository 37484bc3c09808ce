"""Runs a model file on the CPU: batches of any size, on any thread, several at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnxruntime

from service.contract import INPUT_NAME, PROBABILITIES
from service.engine.base import Outputs, Pixels


class CpuEngine:
    """One model file in one ONNX Runtime session. Thread-safe, as sessions are."""

    provider = "cpu"
    tf32 = False
    sizes: Sequence[int] = ()
    attested: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.metadata: Mapping[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self.classes, self.input_shape = stated_classes(session), stated_input(session)

    def prepare(self, sizes: Sequence[int]) -> None:
        """Any size runs as it comes, so there is nothing to do."""

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> Outputs:
        """Return the named outputs; only these are copied out of the session."""
        images = pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels)
        answers = self._session.run(list(outputs), {INPUT_NAME: images})
        return dict(zip(outputs, answers, strict=True))

    def close(self) -> None:
        """Drop the session, and with it the model's memory; doing it again does no harm."""
        self.__dict__.pop("_session", None)


def stated_classes(session: onnxruntime.InferenceSession) -> int | None:
    """Return C of the probabilities, if the file states it."""
    outputs = {output.name: output.shape for output in session.get_outputs()}
    size = outputs[PROBABILITIES][1]
    return size if isinstance(size, int) else None


def stated_input(
    session: onnxruntime.InferenceSession,
) -> tuple[int | None, int | None, int | None]:
    """Return N, H and W of the images, each None where the file leaves it open."""
    (images,) = session.get_inputs()
    batch, height, width = (n if isinstance(n, int) else None for n in images.shape[:3])
    return batch, height, width
