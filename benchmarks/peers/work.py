"""The work that every peer does: an image's bytes to pixels, pixels to probabilities, to an answer.

It is the service's own code where the service has one (resize and crop, the contract, top-k), so
that pixels and answers are the same; run.py puts the checkout on each peer's path. What to serve
comes in environment variables, since the peers start worker processes in ways of their own.
"""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.contract import INPUT_NAME, PROBABILITIES, ModelContract
from service.postprocess.top_k import top_k
from service.preprocess.transform import transform

_PREFIX = "PEERS_"

Pixels = NDArray[np.uint8]
"""Of one image, [crop, crop, 3]."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a peer is to serve, and within which limits.

    `contract_file` holds the model file's contract as JSON, so that a process which only decodes
    needs no ONNX Runtime to read it.
    """

    model_file: str
    contract_file: str
    port: int
    cores: int
    max_batch: int
    max_delay_ms: int

    @property
    def contract(self) -> ModelContract:
        """The model file's contract."""
        return ModelContract.model_validate_json(Path(self.contract_file).read_bytes())

    def to_environment(self) -> dict[str, str]:
        """Return the variables that `task` reads."""
        return {_PREFIX + name.upper(): str(value) for name, value in asdict(self).items()}


def task() -> Task:
    """Read the task from the environment; raises `SystemExit` when it is not whole."""
    try:
        texts = {name: os.environ[_PREFIX + name.upper()] for name in Task.__slots__}
    except KeyError as error:
        raise SystemExit(f"{error.args[0]} is not set; run.py starts the peers") from error
    numbers = ("port", "cores", "max_batch", "max_delay_ms")
    return Task(**{name: int(text) if name in numbers else text for name, text in texts.items()})  # type: ignore[arg-type]


class Decoder:
    """Turns encoded images into pixels with Pillow, as the peers' own examples do.

    Of the service's decoder they get the boxed resize, which is less work than a resize and a crop;
    its own way to libjpeg-turbo and its checks are a part of what is compared.
    """

    def __init__(self, given: Task) -> None:
        Image.init()
        self._preprocessing = given.contract.preprocessing

    def __call__(self, image: bytes) -> Pixels:
        """Decode one image; raises an `OSError` for what is none."""
        with Image.open(io.BytesIO(image)) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        return transform(upright, self._preprocessing)


class Model:
    """The model file in an ONNX Runtime session with so many intra-op threads.

    The options are ONNX Runtime's defaults but for one: threads that wait do not spin. Where the
    decoder and the load generator need the same cores, spinning makes every peer slower.
    """

    def __init__(self, given: Task, threads: int) -> None:
        import onnxruntime  # noqa: PLC0415 - a process that only decodes does without

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            given.model_file, options, providers=["CPUExecutionProvider"]
        )
        self._labels = given.contract.labels
        self._warm_up(given)

    def __call__(self, images: Sequence[Pixels]) -> list[dict[str, Any]]:
        """Run a batch; return each image's answer in the form of the service's own."""
        rows = self._session.run([PROBABILITIES], {INPUT_NAME: np.stack(images)})[0]
        return [self._answer(row) for row in rows]

    def _answer(self, row: NDArray[np.float32]) -> dict[str, Any]:
        ((index, probability),) = top_k(row, 1)
        label = self._labels[index]
        best = {"id": label.id, "label": label.label, "index": index, "probability": probability}
        return {"results": [{"labels": [best]}]}

    def _warm_up(self, given: Task) -> None:
        """Run each batch size once, so that no request pays for memory or kernels."""
        height, width = given.contract.preprocessing.input_size
        for size in range(1, given.max_batch + 1):
            self._session.run(
                [PROBABILITIES], {INPUT_NAME: np.zeros((size, height, width, 3), np.uint8)}
            )


def program(name: str) -> str:
    """Return the path of a program of this virtual environment."""
    return str(Path(sys.executable).with_name(name))


def run_program(name: str, *arguments: str) -> None:
    """Become that program: it has this process's id, and is stopped by it."""
    os.execv(program(name), [name, *arguments])  # noqa: S606 - no shell is wanted


def free_port() -> int:
    """Return a port of the loopback that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
