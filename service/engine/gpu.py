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
    """Bytes of a GPU, by all processes that use it."""

    used: int
    total: int


class Gpu:
    """All work on one GPU goes through here: by `call` on its thread, copies also by `guarded`.

    `copying` is held while another thread copies, and while the thread captures a graph: a capture
    fails when other threads use the device meanwhile. Once the GPU is lost, everything raises
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
        """As of the last batch, at most some seconds old while there are any; None: unknown."""
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
        """Have a loss told, once, on the thread that met it; at once if it is lost already."""
        with self._losing:
            self._on_lost = on_lost
            lost = self.lost
        if lost is not None:
            on_lost(lost)

    def call(self, work: Callable[[], T]) -> T:
        """Do `work` on the GPU's thread, as `guarded` does it here."""
        return self._thread.call(partial(self.guarded, work))

    def post(self, work: Callable[[], object]) -> None:
        """Do `work` on the GPU's thread some time, unless the GPU is lost by then."""
        self._thread.post(lambda: self.lost or work())

    def guarded(self, work: Callable[[], T]) -> T:
        """Do `work` on this thread.

        Raises `DeviceLostError` or `SessionFailedError` in the place of what says one of them.
        """
        if self.lost is not None:
            raise DeviceLostError(str(self.lost))
        try:
            return work()
        except (DeviceLostError, SessionFailedError):
            raise  # judged already
        except Exception as error:
            judged = judge(error, self._device_error)
            if judged is None:
                raise
            if isinstance(judged, DeviceLostError):
                self._lose(judged)
            try:
                raise judged from error
            finally:
                # Its traceback holds this frame; with a name for it here, both would stay until
                # the next collection, and with them a session that has to go first.
                del judged

    def note_memory(self, *, at_once: bool = False) -> None:
        """Note the memory in use now and then; call it on the GPU's thread, beside no capture."""
        now = self._clock()
        if self.runtime is None or (now - self._looked_at < _MEMORY_EVERY_S and not at_once):
            return
        self._looked_at = now
        free, total = self.runtime.memory()
        self.memory = GpuMemory(total - free, total)

    def trouble(self, stuck_after_s: float) -> str | None:
        """Say what only a new process mends: a lost GPU, or a thread that is dead or stuck."""
        if self.lost is not None:
            return f"the GPU was lost: {self.lost}"
        return self._thread.trouble(stuck_after_s)

    def close(self, timeout_s: float) -> bool:
        """End the thread after its work; False if that took longer."""
        return self._thread.close(timeout_s)

    def _device_error(self) -> int | None:
        if not self._used:
            return 0  # what fails before any session was there is no loss, as an old driver
        return None if self.runtime is None else self.runtime.device_error()

    def _lose(self, error: DeviceLostError) -> None:
        with self._losing:
            if self.lost is not None:
                return
            self.lost, told = error, self._on_lost
        told(error)
