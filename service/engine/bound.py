"""One batch size, bound: buffers of the device that are made once, and a run that uses them.

ONNX Runtime's CUDA provider keeps cuDNN's plans for the last input shape only, and builds all of
them anew when it differs, in a quarter of a second
(https://github.com/microsoft/onnxruntime/issues/23006). So no session is ever run with two shapes,
unless as captured graphs, one for each size. All of this happens on the thread that made the
session, since the provider keeps what it captured for the calling thread alone.
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
    """Where buffers lie, in ONNX Runtime's words, and the [H, W, 3] of an image."""

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
        """Make the buffers; `outputs` gives each output's shape without the batch.

        `graph` is the id under which the first run is captured; None captures none.
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
        """Run the model on what the input holds; the first time, a graph is captured."""
        self._session.run_with_iobinding(self._binding, self._options)

    def output(self, name: str, images: int) -> NDArray[np.float32]:
        """Copy the first `images` rows of an output."""
        # What ONNX Runtime gives may be the buffer itself, which the next batch writes to.
        return np.array(self._outputs[name].numpy()[:images])


def read_plainly(
    session: Session, names: Sequence[str], image: tuple[int, ...], *, graphs: bool
) -> dict[str, NDArray[Any]]:
    """Run one black image without binding or capture; gives the outputs by name."""
    options = onnxruntime.RunOptions()
    if graphs:
        options.add_run_config_entry(_GRAPH_ID, _NO_GRAPH)
    answers = session.run(list(names), {INPUT_NAME: np.zeros((1, *image), np.uint8)}, options)
    return dict(zip(names, answers, strict=True))


def stated_shapes(session: Session, names: Sequence[str]) -> dict[str, list[int]] | None:
    """Return the outputs' shapes without the batch; None if the file does not state them."""
    shapes = {node.name: list(node.shape)[1:] for node in session.get_outputs()}
    wanted = {name: shapes[name] for name in names}
    known = all(isinstance(side, int) for shape in wanted.values() for side in shape)
    return wanted if known else None


OpenSession = Callable[[bool], Session]
"""Opens the file once more; the argument tells whether graphs are to be captured in it."""
