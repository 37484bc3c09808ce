"""Engines that a test can block, break and inspect, simulating slow or failing hardware."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from service.contract import PROBABILITIES, Faster
from service.engine.base import Engine, Outputs, Pixels
from service.engine.onnx import OnnxOpener
from service.engine.providers import CPU, CUDA, Provider
from service.inference.runtime import Runtime


class FakeEngine:
    """An engine that describes itself and otherwise does nothing."""

    provider: Provider = CPU
    rounds_to: Faster | None = None
    sizes: tuple[int, ...] = ()
    metadata: Mapping[str, str] = MappingProxyType({})
    classes: int | None = None
    input_shape = (None, None, None)
    attested: Mapping[str, object] = MappingProxyType({})

    def prepare(self, sizes: Sequence[int]) -> None:
        pass

    def close(self) -> None:
        pass


class FakeOpener(OnnxOpener):
    """Opens engines with a function that gets `provider` and `intra_op_threads`."""

    def __init__(
        self, open_engine: Callable[..., Engine], provider: str = "cpu", *, on_gpu: bool = False
    ) -> None:
        super().__init__(provider)
        self._open_engine, self._on_gpu = open_engine, on_gpu

    def expected(self) -> Provider:
        return CUDA if self._on_gpu else CPU

    def open(
        self,
        path: Path,
        *,
        intra_op_threads: int,
        provider: str | None = None,
        exact: bool = False,
    ) -> Engine:
        return self._open_engine(
            path, provider=provider or self.provider, intra_op_threads=intra_op_threads
        )


def answered(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the result of `Engine.run` with these probabilities."""
    return {PROBABILITIES: rows}


def hold(client: Any) -> HeldEngine:
    """Make the only model of a client's server wait at a gate that the test opens."""
    return hold_model(client.app.state.runtime)


def hold_model(runtime: Runtime) -> HeldEngine:
    (model,) = runtime.repository
    engine, inner = HeldEngine(), model.engine.run

    def run(pixels: Pixels, outputs: Sequence[str]) -> Outputs:
        engine.run(pixels, outputs)
        return inner(pixels, outputs)

    model.engine.run = run  # type: ignore[method-assign]  # a test looks in
    return engine


class HeldEngine(FakeEngine):
    """Answers each image with its first pixel's value; waits at a gate; fails on demand."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []
        self.fail_with: BaseException | None = None
        self.poison: int | None = None  # an image with this value fails its batch
        self.closed = False

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> Outputs:
        self.batches.append([int(image.flat[0]) for image in pixels])
        self.entered.release()
        if not self.open.wait(60):
            raise TimeoutError("the test left the gate shut")
        if self.fail_with is not None:
            raise self.fail_with
        if self.poison in self.batches[-1]:
            raise RuntimeError(f"the value {self.poison}")
        return first_pixels(pixels)

    def close(self) -> None:
        self.closed = True


def first_pixels(pixels: Pixels) -> dict[str, np.ndarray]:
    """Return each image's first value as its only probability."""
    return answered(np.array([[image.flat[0]] for image in pixels], np.float32))
