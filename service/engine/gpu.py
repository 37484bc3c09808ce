"""One GPU of this process: its thread, its memory, and whether it is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from service.engine.cuda_errors import judge
from service.engine.cudart import CudaRuntime, loaded_runtime
from service.engine.device_thread import DeviceThread
from service.engine.nvidia import gpu_name
from service.errors import DeviceLostError, SessionFailedError

T = TypeVar("T")

_MEMORY_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """A GPU's memory in bytes; `used` includes other processes."""

    used: int
    total: int


class Gpu:
    """Does all work on one GPU: on its own thread (`call`), or for copies on any (`guarded`).

    `copying` is held while another thread copies, and while the GPU's thread captures a graph: a
    capture fails if other threads use the device meanwhile. Once the GPU is lost, all work raises
    `DeviceLostError`.
    """

    def __init__(
        self,
        device_id: int = 0,
        find_runtime: Callable[[int], CudaRuntime | None] = loaded_runtime,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.device_id = device_id
        self.copying = threading.Lock()
        self.lost: DeviceLostError | None = None
        self.memory: GpuMemory | None = None
        """As of a recent batch, a few seconds old at most while batches run; None if unknown."""
        self.runtime: CudaRuntime | None = None
        self.name: str | None = None
        self._find_runtime, self._clock = find_runtime, clock
        self._thread = DeviceThread(f"gpu-{device_id}", clock)
        self._losing = threading.Lock()
        self._on_lost: Callable[[DeviceLostError], None] = lambda _: None
        self._used = False
        self._looked_at = 0.0

    def load_runtime(self) -> None:
        """Find the CUDA runtime; call it once ONNX Runtime has loaded its libraries."""
        self._used = True
        if self.runtime is None:
            self.runtime = self._find_runtime(self.device_id)
            self.name = gpu_name(self.device_id)

    def watch(self, on_lost: Callable[[DeviceLostError], None]) -> None:
        """Set a callback for the GPU's loss.

        It is called once, on the thread that notices the loss, or now if the GPU is already lost.
        """
        with self._losing:
            self._on_lost = on_lost
            lost = self.lost
        if lost is not None:
            on_lost(lost)

    def call(self, work: Callable[[], T]) -> T:
        """Do `work` on the GPU's thread and return its result; raises as `guarded` does."""
        return self._thread.call(partial(self.guarded, work))

    def post(self, work: Callable[[], object]) -> None:
        """Do `work` on the GPU's thread later, without waiting, unless the GPU is lost by then."""
        self._thread.post(lambda: self.lost or work())

    def guarded(self, work: Callable[[], T]) -> T:
        """Do `work` on this thread and return its result.

        Raises `DeviceLostError` or `SessionFailedError` instead of errors that mean one of them.
        """
        if self.lost is not None:
            raise DeviceLostError(str(self.lost))
        try:
            return work()
        except (DeviceLostError, SessionFailedError):
            raise  # already judged
        except Exception as error:
            judged = judge(error, self._device_error)
            if judged is None:
                raise
            if isinstance(judged, DeviceLostError):
                self._lose(judged)
            try:
                raise judged from error
            finally:
                # Its traceback refers to this frame. If a variable here referred to it, both would
                # live until the next garbage collection, with a session that must be freed before.
                del judged

    def note_memory(self, *, at_once: bool = False) -> None:
        """Update `memory` now and then; call it on the GPU's thread, but not during a capture."""
        now = self._clock()
        if self.runtime is None or (now - self._looked_at < _MEMORY_EVERY_S and not at_once):
            return
        self._looked_at = now
        free, total = self.runtime.memory()
        self.memory = GpuMemory(total - free, total)

    def trouble(self, stuck_after_s: float) -> str | None:
        """Return what only a restart fixes: a lost GPU, or a thread that is dead or stuck."""
        if self.lost is not None:
            return f"the GPU was lost: {self.lost}"
        return self._thread.trouble(stuck_after_s)

    def close(self, timeout_s: float) -> bool:
        """End the thread after its work, and return whether it ended in time."""
        return self._thread.close(timeout_s)

    def _device_error(self) -> int | None:
        if not self._used:
            return 0  # errors before the first session, such as an old driver, are not a loss
        return None if self.runtime is None else self.runtime.device_error()

    def _lose(self, error: DeviceLostError) -> None:
        with self._losing:
            if self.lost is not None:
                return
            self.lost, told = error, self._on_lost
        told(error)
