"""Runs one batch size with device buffers that are allocated once.

ONNX Runtime's CUDA provider keeps cuDNN's plans for the last input shape only, and rebuilds all of
them when the shape changes, which takes a quarter of a second
(https://github.com/microsoft/onnxruntime/issues/23006). So no session is ever run with two shapes,
except as captured graphs, one per size. All of this happens on the thread that created the session,
since captured graphs are kept per thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.contract import INPUT_NAME

_GRAPH_ID = "gpu_graph_id"
_NO_GRAPH = "-1"

Session: TypeAlias = onnxruntime.InferenceSession


@dataclass(frozen=True, slots=True)
class Place:
    """Where buffers are, in ONNX Runtime's terms, and the shape [H, W, 3] of an image."""

    device: str
    device_id: int
    image: tuple[int, ...]


class BoundSize:
    """Buffers for one batch size, bound to a session's input and outputs."""

    def __init__(
        self,
        session: Session,
        size: int,
        place: Place,
        outputs: Mapping[str, Sequence[int]],
        graph: int | None,
    ) -> None:
        """Allocate the buffers; `outputs` has each output's shape without the batch dimension.

        `graph` is the id under which the first run is captured, or None to capture nothing.
        """
        device = place.device, place.device_id
        self.input = onnxruntime.OrtValue.ortvalue_from_numpy(
            np.zeros((size, *place.image), np.uint8), *device
        )
        self._outputs = {
            name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                [size, *shape], np.float32, *device
            )
            for name, shape in outputs.items()
        }
        self._session, self._binding = session, session.io_binding()
        self._binding.bind_ortvalue_input(INPUT_NAME, self.input)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = onnxruntime.RunOptions()
        if graph is not None:
            self._options.add_run_config_entry(_GRAPH_ID, str(graph))

    def run(self) -> None:
        """Run the model on the input's current content; the first run captures a graph, if any."""
        self._session.run_with_iobinding(self._binding, self._options)

    def output(self, name: str, images: int) -> NDArray[np.float32]:
        """Return a copy of the first `images` rows of an output."""
        # ONNX Runtime may return the buffer itself, which the next batch overwrites.
        return np.array(self._outputs[name].numpy()[:images])


def read_plainly(
    session: Session, names: Sequence[str], image: tuple[int, ...], *, graphs: bool
) -> dict[str, NDArray[Any]]:
    """Return the outputs by name for one black image, run without binding or capture."""
    options = onnxruntime.RunOptions()
    if graphs:
        options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
    answers = session.run(list(names), {INPUT_NAME: np.zeros((1, *image), np.uint8)}, options)
    return dict(zip(names, answers, strict=True))


def stated_shapes(session: Session, names: Sequence[str]) -> dict[str, list[int]] | None:
    """Return the outputs' shapes without the batch, or None if the file does not state them."""
    shapes = {node.name: list(node.shape)[1:] for node in session.get_outputs()}
    wanted = {name: shapes[name] for name in names}
    known = all(isinstance(side, int) for shape in wanted.values() for side in shape)
    return wanted if known else None


OpenSession = Callable[[bool], Session]
"""Opens the file again; the argument is whether graphs will be captured in the session."""
