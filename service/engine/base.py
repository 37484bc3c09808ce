"""What the service asks of an inference engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.contract import PROBABILITIES, Faster, ModelContract
from service.engine.providers import EngineOptions, Provider
from service.errors import DeviceLostError

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
    def provider(self) -> Provider:
        """The provider really in use."""

    @property
    def rounds_to(self) -> Faster | None:
        """The faster precision that products are rounded to; None where as the file states."""

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
    """Opens model files as the settings ask, and knows how the devices do that they run on."""

    def expected(self) -> Provider:
        """Return the provider that models should run on here; only an engine knows if it does."""

    def open(
        self,
        path: Path,
        *,
        intra_op_threads: int,
        provider: str | None = None,
        exact: bool = False,
    ) -> Engine:
        """Open a model file, on the provider of that name if one is given.

        If it is to be `exact`, nothing is rounded to a faster precision, whatever the file allows.

        Raises `ModelFileError` or `ProviderError`; with a name given, also what `Engine.run` does.
        """

    def rivals(self, contract: ModelContract) -> Sequence[Provider]:
        """List what may beat the CPU's own provider at a file, if that is left to measurement."""

    def watch(self, on_lost: Callable[[DeviceLostError], None]) -> None:
        """Have a loss of a device told, once, on any thread."""

    def trouble(self, stuck_after_s: float) -> dict[str, str]:
        """Say, by the device's name, what only a new process mends; nothing if all is well."""

    def devices(self) -> list[dict[str, Any]]:
        """Describe the devices in use, for people."""

    def close(self, timeout_s: float) -> None:
        """End what the devices have for themselves; engines must be closed before."""


class ProviderOpener:
    """Opens model files on one provider; one with a device of its own has more to say of it."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options

    @property
    def lost(self) -> DeviceLostError | None:
        """The loss of the device, if models run on it."""
        return None

    def open(self, path: Path, *, intra_op_threads: int, exact: bool = False) -> Engine:
        """Open a model file; if `exact`, without rounding to a faster precision.

        Raises `ModelFileError`, `ProviderError`, `DeviceLostError` or `SessionFailedError`.
        """
        raise NotImplementedError

    def watch(self, on_lost: Callable[[DeviceLostError], None]) -> None:
        """Have a loss of the device told, once, on any thread."""

    def trouble(self, stuck_after_s: float) -> dict[str, str]:  # noqa: ARG002 - nothing can be stuck
        """Say, by the device's name, what only a new process mends."""
        return {}

    def devices(self) -> list[dict[str, Any]]:
        """Describe the device, if it is in use."""
        return []

    def close(self, timeout_s: float) -> None:
        """End what the device has for itself."""


def stacked(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the images as one array [N, H, W, 3]; a single one is not copied."""
    return pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels)


def probabilities(engine: Engine, pixels: Pixels) -> NDArray[np.float32]:
    """Return the probabilities [N, C] of N images."""
    return engine.run(pixels, (PROBABILITIES,))[PROBABILITIES]
