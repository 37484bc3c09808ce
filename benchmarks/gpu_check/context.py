"""What every part is given: the model files, whether there is a GPU, and how long to take."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.contract import ModelContract, parse_contract
from service.engine.base import Engine
from service.engine.onnx import OnnxOpener
from service.engine.providers import CPU, CUDA, EngineOptions, PrecisionChoice, Provider
from service.golden import golden_pattern

SIZES = (1, 8, 32)


@dataclass(frozen=True, slots=True)
class Context:
    """One run of a part.

    With a GPU the models are full ResNet-50s, without one light networks, so that everything runs
    anywhere. `scale` shortens what is measured by time.
    """

    folder: Path
    gpu: bool
    scale: float = 1.0

    def model(self, precision: str) -> Path:
        """Return the model file in "fp32" or "fp16"."""
        name = "resnet50" if self.gpu else "light"
        return self.folder / (f"{name}.onnx" if precision == "fp32" else f"{name}-fp16.onnx")

    @property
    def provider(self) -> Provider:
        """The provider that models run on."""
        return CUDA if self.gpu else CPU

    @property
    def names(self) -> list[str]:
        """The model files that parts need, as `benchmarks/models.py` names them."""
        return [self.model(precision).stem for precision in ("fp32", "fp16")]

    @property
    def image_side(self) -> int:
        """The side of posted JPEGs, in pixels."""
        return 224 if self.gpu else 64

    def seconds(self, full: float) -> float:
        """Shorten a time as asked for."""
        return max(0.2, full * self.scale)

    @contextmanager
    def opened(
        self, precision: str, *, graphs: bool = True, computed: PrecisionChoice = "exact"
    ) -> Iterator[tuple[Engine, ModelContract]]:
        """Open a model file: on the GPU where there is one, else on the CPU."""
        opener = OnnxOpener(
            self.provider.name,
            EngineOptions(precision=computed, graphs="auto" if graphs else "off"),
        )
        path = self.model(precision)
        engine = opener.open(path, intra_op_threads=1 if self.gpu else os.cpu_count() or 1)
        try:
            engine.prepare(SIZES)
            yield engine, parse_contract(engine.metadata, file=str(path))
        finally:
            engine.close()
            opener.close(20)


def has_gpu() -> bool:
    """Whether ONNX Runtime could use a GPU here."""
    return CUDA.problem() is None


def pixels_of(contract: ModelContract, count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Make formula images for a model."""
    size = contract.preprocessing.input_size
    return [golden_pattern(seed + number, *size) for number in range(count)]


def program(name: str) -> list[str]:
    """Return the command of a program of the project: this Python's, else the one on the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed")
    return [found]


def median_of(work: Callable[[], object], runs: int) -> float:
    """Return the median seconds of a call."""
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def rate_of(works: Sequence[Callable[[], int]], seconds: float) -> float:
    """Repeat each call on a thread of its own for a while; return what they return, a second."""
    counts = [0] * len(works)
    errors: list[BaseException] = []
    end = time.perf_counter() + seconds

    def repeat(index: int, work: Callable[[], int]) -> None:
        try:
            while time.perf_counter() < end and not errors:
                counts[index] += work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=repeat, args=each) for each in enumerate(works)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) / (time.perf_counter() - started)
