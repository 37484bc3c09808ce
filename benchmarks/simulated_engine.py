"""An engine that takes as long as a table says, and answers without computing.

It stands for one fast GPU: while a batch "runs", its thread sleeps and leaves the interpreter and
the cores to the rest of the service, as a thread does that waits for a device.
"""

from __future__ import annotations

import argparse
import bisect
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.contract import PROBABILITIES, ModelContract, parse_contract
from service.engine.base import DeviceOutputs, Pixels
from service.engine.onnx import OnnxOpener, load_engine
from service.engine.providers import CPU, CUDA, Provider
from service.golden import golden_pixels

FAST_GPU_MS: Mapping[int, float] = MappingProxyType({1: 0.65, 8: 1.31, 32: 3.67})
"""Milliseconds that a batch takes, by its size.

Measured: ResNet-50 at 224 pixels in half precision, NHWC, on an H200 through ONNX Runtime 1.31's
CUDA provider, each size a captured graph with bound buffers, sizes alternating. It is faster than
any HTTP server in Python, so that the path and not the device is what limits.
"""

_PIXEL_STEP = 97
"""Every so manieth value of an image decides its answer: few enough to cost nothing, and no divisor
or multiple of a row, so that they are spread over the image."""

_SURE = 0.9


def parse_table(text: str) -> dict[int, float]:
    """Read `SIZE:MILLISECONDS,...`, as in `1:1.0,8:1.7`, for argparse; it shows what is wrong."""
    table: dict[int, float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6}):(\d+(?:\.\d+)?)", part.strip())
        if not match or int(match[1]) < 1 or not 0 < float(match[2]) < 60_000:
            raise argparse.ArgumentTypeError(f"{part!r} is not SIZE:MILLISECONDS")
        size, ms = match.groups()
        table[int(size)] = float(ms)
    return dict(sorted(table.items()))


def batch_ms(table: Mapping[int, float], size: int) -> float:
    """Return the milliseconds of a batch: interpolated, and beyond the largest in proportion."""
    sizes = sorted(table)
    above = bisect.bisect_left(sizes, size)
    if above == len(sizes):
        return table[sizes[-1]] * size / sizes[-1]
    if above == 0:
        return table[sizes[0]]
    low, high = sizes[above - 1], sizes[above]
    return table[low] + (table[high] - table[low]) * (size - low) / (high - low)


def best_rate(table: Mapping[int, float], max_batch: int) -> float:
    """Return the most images a second that the table allows, in batches of at most that size."""
    return max(size / batch_ms(table, size) * 1000 for size in range(1, max_batch + 1))


class SimulatedEngine:
    """Implements `service.engine.base.Engine`, as a GPU whose every size is a captured graph.

    The golden cases of the contract have their known answers, so that the service's warm-up passes
    as it does with the real model. Any other image has one that follows from its pixels alone: an
    answer that reaches the wrong request is noticed.
    """

    provider = CUDA
    tf32 = False
    attested: Mapping[str, Any] = MappingProxyType({"simulated": True})

    def __init__(
        self,
        contract: ModelContract,
        table: Mapping[int, float],
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`table` gives the milliseconds of a batch by its size, see `batch_ms`."""
        self.metadata, self.classes = metadata, len(contract.labels)
        self.input_shape = (None, None, None)
        self.sizes: Sequence[int] = ()
        self._table = dict(table)
        # One device: a second caller waits, or two threads would be two GPUs.
        self._device = threading.Lock()
        classes = len(contract.labels)
        self._answers = np.full((classes, classes), (1 - _SURE) / (classes - 1), np.float32)
        np.fill_diagonal(self._answers, _SURE)
        self._golden: dict[int, list[tuple[NDArray[np.uint8], NDArray[np.float32]]]] = {}
        for case in contract.golden:
            pixels, _ = golden_pixels(case, contract)
            key = int(_keys([pixels])[0])
            answer = np.asarray(case.probabilities, np.float32)
            self._golden.setdefault(key, []).append((pixels, answer))

    def prepare(self, sizes: Sequence[int]) -> None:
        """Pad to these sizes."""
        self.sizes = tuple(sizes)

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> DeviceOutputs:
        """Return the probabilities, after the table's time for the size that N is padded to."""
        if list(outputs) != [PROBABILITIES]:
            raise ValueError(f"only {PROBABILITIES} is simulated")
        size = next((size for size in self.sizes if size >= len(pixels)), len(pixels))
        with self._device:
            began_at = time.perf_counter()
            end = began_at + batch_ms(self._table, size) / 1000
            keys = _keys(pixels)
            answers: NDArray[np.float32] = self._answers[keys % len(self._answers)]
            for index, key in enumerate(keys.tolist()):
                for known, answer in self._golden.get(key, ()):
                    if np.array_equal(known, pixels[index]):
                        answers[index] = answer
            time.sleep(max(0.0, end - time.perf_counter()))
        return DeviceOutputs({PROBABILITIES: answers}, began_at, time.perf_counter())

    def close(self) -> None:
        """There is nothing to free."""


class SimulatedOpener(OnnxOpener):
    """Opens a model file on the simulated GPU: its contract is the real one."""

    def __init__(self, table: Mapping[int, float]) -> None:
        super().__init__()
        self._table = table

    def expected(self) -> Provider:
        """Return the one that it stands for."""
        return CUDA

    def open(
        self,
        path: Path,
        *,
        intra_op_threads: int,
        provider: str | None = None,  # noqa: ARG002 - there is one
    ) -> SimulatedEngine:
        """Read the file's contract, and simulate the rest."""
        engine = load_engine(path, provider=CPU.name, intra_op_threads=intra_op_threads)
        metadata = engine.metadata
        engine.close()
        return SimulatedEngine(parse_contract(metadata, file=str(path)), self._table, metadata)


def _keys(pixels: Pixels) -> NDArray[np.int64]:
    """Return a number [N] for each image that depends on its pixels."""
    values = np.stack([image.reshape(-1)[::_PIXEL_STEP] for image in pixels])
    keys: NDArray[np.int64] = values.sum(axis=1, dtype=np.int64)
    return keys
