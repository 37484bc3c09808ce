"""What the service asks of an inference engine."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Engine(Protocol):
    """One loaded model. Thread-safe: several threads may run batches at once."""

    @property
    def provider(self) -> str:
        """The provider really in use: "cpu" or "cuda"."""

    @property
    def tf32(self) -> bool:
        """Whether products are rounded to TF32 (10 bits of mantissa)."""

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give the probabilities [N, C] of a batch of images [N, H, W, 3].

        Raises `DeviceLostError` when no further batch can succeed.
        """

    def close(self) -> None:
        """Free the model's memory; `run` must not be called again."""
