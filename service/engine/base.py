"""The interfaces of inference engines and of what opens model files on them."""

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
"""Images, uint8 [H, W, 3], all of the same size."""

Outputs = Mapping[str, NDArray[np.float32]]
"""Arrays by output name."""


class DeviceOutputs(dict[str, NDArray[np.float32]]):
    """A batch's outputs, and when the device started and finished it (`time.perf_counter()`)."""

    def __init__(
        self, outputs: Mapping[str, NDArray[np.float32]], began_at: float, ended_at: float
    ) -> None:
        super().__init__(outputs)
        self.began_at, self.ended_at = began_at, ended_at


class Engine(Protocol):
    """An open model file. Thread-safe: any thread may run a batch at any time."""

    @property
    def provider(self) -> Provider:
        """The provider actually in use."""

    @property
    def rounds_to(self) -> Faster | None:
        """The faster precision that products are rounded to; None if it is the file's own."""

    @property
    def sizes(self) -> Sequence[int]:
        """The sizes that batches are padded to, ascending; empty if batches are not padded."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """The model file's own metadata."""

    @property
    def classes(self) -> int | None:
        """The C of the probabilities; None if the file leaves it open."""

    @property
    def input_shape(self) -> tuple[int | None, int | None, int | None]:
        """N, H and W of the images; None for each that the file leaves open."""

    @property
    def attested(self) -> Mapping[str, Any]:
        """How batches are actually computed, for display and to identify cached measurements."""

    def prepare(self, sizes: Sequence[int]) -> None:
        """Prepare for batches of these sizes, and free what was prepared for other sizes.

        Raises `DeviceLostError`, or `SessionFailedError` if a new session may succeed.
        """

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> Outputs:
        """Return the named outputs for N images: `probabilities` is float32 [N, C].

        An engine whose device computes one batch at a time returns `DeviceOutputs`.

        Raises `DeviceLostError` if no further batch of this process can succeed on the device, and
        `SessionFailedError` if none can in this session.
        """

    def close(self) -> None:
        """Free the model's memory; `run` must not be called afterwards."""


class Opener(Protocol):
    """Opens model files as configured, and reports on the devices that they run on."""

    def narrowed(self, provider: str | None, *, exact: bool) -> Opener:
        """Return an opener on the same devices for a model with a provider or precision of its own.

        Without a `provider`, it is this opener's. With `exact`, nothing is rounded.
        """

    def expected(self) -> Provider:
        """Return the provider expected to be used here; only an open engine knows for sure."""

    def open(
        self,
        path: Path,
        *,
        intra_op_threads: int,
        provider: str | None = None,
        exact: bool = False,
    ) -> Engine:
        """Open a model file, on the named provider if one is given.

        With `exact`, nothing is rounded to a faster precision, whatever the file allows.

        Raises `ModelFileError` or `ProviderError`; with a named provider, also what `Engine.run`
        raises.
        """

    def rivals(self, contract: ModelContract) -> Sequence[Provider]:
        """List the providers to measure against the CPU's own for a file; none unless on `auto`."""

    def watch(self, on_lost: Callable[[DeviceLostError], None]) -> None:
        """Set a callback for the loss of a device; it is called once, on any thread."""

    def trouble(self, stuck_after_s: float) -> dict[str, str]:
        """Return the problems that only a restart fixes, by device; empty if there are none."""

    def devices(self) -> list[dict[str, Any]]:
        """Describe the devices in use, for display."""

    def close(self, timeout_s: float) -> None:
        """Stop the devices' threads; all engines must have been closed."""


class ProviderOpener:
    """Opens model files on one provider; those with their own device override the rest, too."""

    def __init__(self, options: EngineOptions) -> None:
        self.options = options

    @property
    def lost(self) -> DeviceLostError | None:
        """The error with which the device was lost; None if it is not, or no model runs on it."""
        return None

    def open(self, path: Path, *, intra_op_threads: int, exact: bool = False) -> Engine:
        """Open a model file; with `exact`, without rounding to a faster precision.

        Raises `ModelFileError`, `ProviderError`, `DeviceLostError` or `SessionFailedError`.
        """
        raise NotImplementedError

    def watch(self, on_lost: Callable[[DeviceLostError], None]) -> None:
        """Set a callback for the loss of the device; it is called once, on any thread."""

    def trouble(self, stuck_after_s: float) -> dict[str, str]:  # noqa: ARG002 - nothing can be stuck
        """Return the problems that only a restart fixes, by device."""
        return {}

    def devices(self) -> list[dict[str, Any]]:
        """Describe the device, if it is in use."""
        return []

    def close(self, timeout_s: float) -> None:
        """Stop the device's thread, if there is one."""


def stacked(pixels: Pixels) -> NDArray[np.uint8]:
    """Return the images as one array [N, H, W, 3]; a single one is not copied."""
    return pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels)


def probabilities(engine: Engine, pixels: Pixels) -> NDArray[np.float32]:
    """Return the probabilities [N, C] of N images."""
    return engine.run(pixels, (PROBABILITIES,))[PROBABILITIES]
