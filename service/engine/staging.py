"""Where a batch is stacked, and how it gets from there to the buffer that the model reads.

A `Staging` belongs to one batch at a time. `fill` may run on any thread while another batch runs;
`copy_to` is only called on the GPU's thread, while nothing reads the target.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from service.engine.base import Pixels
from service.engine.cudart import DEVICE_TO_DEVICE, HOST_TO_DEVICE, CudaRuntime
from service.engine.gpu import Gpu


class Staging(Protocol):
    """Room for one batch."""

    kind: str
    """Which kind of memory it copies from, for display."""

    def fill(self, pixels: Pixels) -> None:
        """Stack a batch's images, and copy them as far as is possible while another batch runs."""

    def copy_to(self, target: onnxruntime.OrtValue, images: int) -> None:
        """Copy the first `images` images to the target; waits for that.

        The target's remaining rows may keep their old content: their results are not used.
        """

    def free(self) -> None:
        """Free its memory."""


class PageableStaging(Staging):
    """Ordinary memory, copied by ONNX Runtime, which holds the GIL meanwhile."""

    kind = "pageable"

    def __init__(self, most: int, shape: Sequence[int]) -> None:
        self._host = np.zeros((most, *shape), np.uint8)

    def fill(self, pixels: Pixels) -> None:
        """Stack the images in host memory."""
        np.stack(pixels, out=self._host[: len(pixels)])

    def copy_to(self, target: onnxruntime.OrtValue, images: int) -> None:  # noqa: ARG002
        """Copy as many rows as the target has: ONNX Runtime can't copy fewer."""
        target.update_inplace(self._host[: target.shape()[0]])

    def free(self) -> None:
        """Do nothing: Python frees the memory."""


class PinnedStaging(Staging):
    """Page-locked memory, copied to a separate device buffer while another batch runs.

    From there it is copied within the device to the buffer that the model reads, which takes some
    microseconds for 5 MB. A captured graph always reads the same address, so the two buffers can't
    be swapped instead.
    """

    kind = "pinned"

    def __init__(self, gpu: Gpu, runtime: CudaRuntime, most: int, shape: Sequence[int]) -> None:
        """Allocate its memory; like `free`, call it on the GPU's thread."""
        self._gpu, self._runtime = gpu, runtime
        self._image_bytes = int(np.prod(shape))
        size = most * self._image_bytes
        self._stream = self._host_address = self._device = 0
        try:
            self._stream = runtime.create_stream()
            self._host_address = runtime.allocate_pinned(size)
            self._device = runtime.allocate(size)
        except BaseException:
            self.free()
            raise
        block = (ctypes.c_uint8 * size).from_address(self._host_address)
        self._host: NDArray[np.uint8] = np.ctypeslib.as_array(block).reshape(most, *shape)

    def fill(self, pixels: Pixels) -> None:
        """Stack the images and copy them to the device; waits for that."""
        np.stack(pixels, out=self._host[: len(pixels)])
        size = len(pixels) * self._image_bytes
        with self._gpu.copying:
            self._runtime.copy(self._device, self._host_address, size, HOST_TO_DEVICE, self._stream)
            self._runtime.synchronize(self._stream)

    def copy_to(self, target: onnxruntime.OrtValue, images: int) -> None:
        """Copy the images within the device."""
        size = images * self._image_bytes
        self._runtime.copy(target.data_ptr(), self._device, size, DEVICE_TO_DEVICE, self._stream)
        self._runtime.synchronize(self._stream)

    def free(self) -> None:
        """Free the memory and the stream."""
        if self._device:
            self._runtime.free(self._device)
        if self._host_address:
            self._runtime.free_pinned(self._host_address)
        if self._stream:
            self._runtime.destroy_stream(self._stream)
        self._device = self._host_address = self._stream = 0
