"""What the service asks of an inference engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.contract import PROBABILITIES
from service.errors import DeviceLostError
from service.settings import Provider

Pixels = Sequence[NDArray[np.uint8]]
"""Images uint8 [H, W, 3] of one size."""

Outputs = Mapping[str, NDArray[np.float32]]
"""Arrays by output name."""


class DeviceOutputs(dict[str, NDArray[np.float32]]):
    """Outputs of a batch, and when a device began and ended it (`time.perf_counter()`)."""

    def __init__(
        self, outputs: Mapping[str, NDArray[np.float32]], began_at: float, ended_at: float
    ) -> None:
        super().__init__(outputs)
        self.began_at, self.ended_at = began_at, ended_at


class Engine(Protocol):
    """One opened model file. Thread-safe: any thread may run a batch at any time."""

    @property
    def provider(self) -> str:
        """The provider really in use: "cpu" or "cuda"."""

    @property
    def tf32(self) -> bool:
        """Return whether float32 products are rounded to TF32 (10 bits of mantissa)."""

    @property
    def sizes(self) -> Sequence[int]:
        """The batch sizes that batches are padded to, ascending; empty where none is padded."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The model file's own metadata."""

    @property
    def classes(self) -> int | None:
        """C of the probabilities, if the file states it."""

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """N, H and W of the images, where the file fixes them."""

    @property
    def attested(self) -> Mapping[str, Any]:
        """How batches are really computed, for people, and for what is kept of measurements."""

    def prepare(self, sizes: Sequence[int]) -> None:
        """Make ready for batches of these sizes; what was made ready for others is freed.

        Raises `DeviceLostError`, or `SessionFailedError` when a new session may succeed.
        """

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> Outputs:
        """Return the named outputs for N images: `probabilities` is float32 [N, C].

        An engine whose device computes one batch after the other returns `DeviceOutputs`.

        Raises `DeviceLostError` when no further batch of this process can succeed on the device,
        and `SessionFailedError` when none can in this session.
        """

    def close(self) -> None:
        """Free the model's memory; `run` must not be called again."""


class Opener(Protocol):
    """Opens model files on one device, as the settings ask, and knows how the device does."""

    def may_use_gpu(self) -> bool:
        """Return whether a model could run on a GPU here; only its engine knows if it does."""

    def open(
        self, path: Path, *, intra_op_threads: int, provider: Provider | None = None
    ) -> Engine:
        """Open a model file, on `provider` if it is given.

        Raises `ModelFileError` or `ProviderError`.
        """

    def watch(self, on_lost: Callable[[DeviceLostError], None]) -> None:
        """Have a loss of the device told, once, on any thread."""

    def trouble(self, stuck_after_s: float) -> dict[str, str]:
        """Say, by the device's name, what only a new process mends; nothing if all is well."""

    def devices(self) -> list[dict[str, Any]]:
        """Describe the GPUs in use, for people."""

    def close(self, timeout_s: float) -> None:
        """End what the device has for itself; engines must be closed before."""


def probabilities(engine: Engine, pixels: Pixels) -> NDArray[np.float32]:
    """Return the probabilities [N, C] of N images."""
    return engine.run(pixels, (PROBABILITIES,))[PROBABILITIES]
