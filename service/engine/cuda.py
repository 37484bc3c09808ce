"""Runs a model file on an NVIDIA GPU, padding each batch to a size prepared in advance."""

from __future__ import annotations

import bisect
import itertools
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray

from service.contract import CLASSIFIER_WEIGHT, Faster
from service.engine.base import DeviceOutputs, Pixels
from service.engine.bound import BoundSize, OpenSession, Place, Session, read_plainly, stated_shapes
from service.engine.gpu import Gpu
from service.engine.providers import CUDA
from service.engine.staging import PageableStaging, PinnedStaging, Staging
from service.errors import (
    DeviceLostError,
    DeviceMemoryError,
    ProviderError,
    SessionFailedError,
    first_line,
)

T = TypeVar("T")

_END_S = 10.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A model file's description of itself, and how it is computed."""

    name: str
    metadata: Mapping[str, str]
    classes: int | None
    input_shape: tuple[int | None, int | None, int | None]
    image_size: tuple[int, int]  # height, width
    outputs: Sequence[str]
    layout: str  # of the convolutions: "NCHW" or "NHWC"
    rounds_to: Faster | None


class CudaEngine:
    """A model file on a GPU; call `prepare` before `run`.

    The GPU's thread creates sessions, captures graphs and runs batches. A batch is stacked and
    copied by the thread that calls `run` while another batch runs; up to `batches` at a time.
    """

    provider = CUDA

    def __init__(
        self,
        gpu: Gpu,
        model: GpuModel,
        open_session: OpenSession,
        *,
        graphs: bool,
        batches: int,
        device: str,
        owns_gpu: bool = False,
    ) -> None:
        """Open the file; with `owns_gpu`, closing this engine also ends the GPU's thread.

        `open_session` is called on the GPU's thread. Raises what it raises.
        """
        self.rounds_to: Faster | None = model.rounds_to
        self.metadata, self.classes = model.metadata, model.classes
        self.input_shape = model.input_shape
        self.sizes: Sequence[int] = ()
        self._gpu, self._model, self._open_session = gpu, model, open_session
        self._place = Place(device, gpu.device_id, (*model.image_size, 3))
        self._batches, self._owns_gpu = batches, owns_gpu
        self._graphs, self._graph_ids = graphs, itertools.count(1)
        self._spare: Session | None = None
        self._bound: dict[int, BoundSize] = {}
        self._stagings: list[Staging] = []
        self._free_stagings: queue.SimpleQueue[Staging | None] = queue.SimpleQueue()
        self._shapes: dict[str, list[int]] = {}
        self._weight: NDArray[np.float32] | None = None
        self._failed: str | None = None
        gpu.call(self._open)

    @property
    def attested(self) -> Mapping[str, Any]:
        """The use of graphs, the layout and the kind of copies."""
        copies = self._stagings[0].kind if self._stagings else None
        return {
            "cuda_graphs": self._graphs,
            "layout": self._model.layout,
            "copies": copies,
        }

    def prepare(self, sizes: Sequence[int]) -> None:
        """Prepare for these sizes; no batch may run meanwhile.

        The thread gets a task per size, since a task that takes too long is reported as stuck.
        """
        sizes = sorted({*sizes})
        self._on_gpu(partial(self._keep_only, sizes))
        refusal = self._bind_all(sizes)
        if refusal is not None:
            # A failed capture leaves its session unusable, so that is closed first.
            self._gpu.call(partial(self._abandon_graphs, refusal))
            self._bind_all(sizes)
        self._on_gpu(partial(self._make_stagings, sizes[-1]))
        self.sizes = tuple(sizes)

    def run(self, pixels: Pixels, outputs: Sequence[str]) -> DeviceOutputs:
        """Return the named outputs; `classifier_weight` [C, D] is the same for every batch."""
        size = self._size_for(pixels)
        staging = self._free_stagings.get()
        if staging is None:  # closed; the next waiting thread must see that too
            self._free_stagings.put(None)
            raise ValueError("the engine is closed")
        try:
            self._noting_failure(partial(self._gpu.guarded, partial(staging.fill, pixels)))
            return self._on_gpu(partial(self._run, staging, len(pixels), size, outputs))
        finally:
            self._free_stagings.put(staging)

    def close(self) -> None:
        """Free the sessions and buffers on the GPU's thread, without waiting for it.

        With a lost GPU nothing is freed: the driver may hang, and the process is about to end.
        """
        self._gpu.post(self._free)
        if self._owns_gpu:
            self._gpu.close(timeout_s=_END_S)

    def _size_for(self, pixels: Pixels) -> int:
        at = bisect.bisect_left(self.sizes, len(pixels))
        if not len(pixels) or at == len(self.sizes):
            raise ValueError(f"{len(pixels)} images; prepared are batches of {list(self.sizes)}")
        for image in pixels:
            if image.shape != self._place.image or image.dtype != np.uint8:
                raise ValueError(
                    f"an image is {image.dtype} {list(image.shape)}, "
                    f"the model takes uint8 {list(self._place.image)}"
                )
        return self.sizes[at]

    def _bind_all(self, sizes: Sequence[int]) -> str | None:
        """Bind the sizes that are missing, largest first; return why if a capture failed.

        Smaller batches reuse the memory that the largest needs between its layers.
        """
        for size in reversed(sizes):
            if size in self._bound:
                continue
            try:
                self._on_gpu(partial(self._bind, size))
            except (DeviceLostError, DeviceMemoryError):
                raise
            except Exception as error:
                if not self._graphs:
                    raise
                return first_line(error)
        return None

    def _on_gpu(self, work: Callable[[], T]) -> T:
        guarded = partial(self._gpu.guarded, work)
        # Recorded on the thread itself, so that tasks already queued there do not run any more.
        return self._gpu.call(partial(self._noting_failure, guarded))

    def _noting_failure(self, work: Callable[[], T]) -> T:
        if self._failed is not None:
            raise SessionFailedError(self._failed)
        try:
            return work()
        except SessionFailedError as error:
            self._failed = str(error)
            raise

    # On the GPU's thread.

    def _open(self) -> None:
        """Open the first session, without graphs if the file does not support them."""
        if self._graphs:
            try:
                self._spare = self._open_session(True)
            except ProviderError:
                raise
            except Exception as error:  # noqa: BLE001 - a session without graphs shows whether they are the reason
                refusal = first_line(error)
            else:
                refusal = ""
        if self._spare is None:
            self._spare = self._open_session(False)
            if self._graphs:
                self._go_without_graphs(refusal)
        names = [name for name in self._model.outputs if name != CLASSIFIER_WEIGHT]
        shapes = stated_shapes(self._spare, names)
        if shapes is None or CLASSIFIER_WEIGHT in self._model.outputs:
            answers = read_plainly(
                self._spare, self._model.outputs, self._place.image, graphs=self._graphs
            )
            self._weight = answers.pop(CLASSIFIER_WEIGHT, None)
            shapes = {name: list(answer.shape[1:]) for name, answer in answers.items()}
        self._shapes = shapes

    def _keep_only(self, sizes: Sequence[int]) -> None:
        self._bound = {size: self._bound[size] for size in sizes if size in self._bound}

    def _bind(self, size: int) -> None:
        if self._graphs:
            session = self._spare
        else:
            session, self._spare = self._spare, None
        session = session or self._open_session(False)
        with self._gpu.copying:
            # Always a new id, since the session keeps earlier graphs and their buffers.
            graph = next(self._graph_ids) if self._graphs else None
            bound = BoundSize(session, size, self._place, self._shapes, graph)
            bound.run()
        self._bound[size] = bound

    def _abandon_graphs(self, reason: str) -> None:
        self._spare, self._bound, self._failed = None, {}, None
        self._go_without_graphs(reason)

    def _go_without_graphs(self, reason: str) -> None:
        self._graphs = False
        _log.warning("cuda_graphs_off", model=self._model.name, detail=reason)

    def _make_stagings(self, most: int) -> None:
        """Allocate a buffer for each concurrent batch, with room for `most` images."""
        if not self._stagings or most != self.sizes[-1]:
            self._free_all_stagings()
            for _ in range(self._batches):
                staging = self._new_staging(most)
                self._stagings.append(staging)
                self._free_stagings.put(staging)
        self._gpu.note_memory(at_once=True)

    def _new_staging(self, most: int) -> Staging:
        runtime = self._gpu.runtime
        if runtime is None:
            return PageableStaging(most, self._place.image)
        return PinnedStaging(self._gpu, runtime, most, self._place.image)

    def _free_all_stagings(self) -> None:
        """Free the staging buffers that are not in use."""
        while not self._free_stagings.empty():
            if (staging := self._free_stagings.get()) is not None:
                self._stagings.remove(staging)
                staging.free()

    def _run(
        self, staging: Staging, images: int, size: int, outputs: Sequence[str]
    ) -> DeviceOutputs:
        began_at = time.perf_counter()
        bound = self._bound[size]
        staging.copy_to(bound.input, images)
        bound.run()
        answers = {
            name: self._weight
            if name == CLASSIFIER_WEIGHT and self._weight is not None
            else bound.output(name, images)
            for name in outputs
        }
        ended_at = time.perf_counter()
        self._gpu.note_memory()
        return DeviceOutputs(answers, began_at, ended_at)

    def _free(self) -> None:
        self.sizes = ()
        self._bound, self._spare = {}, None
        self._free_all_stagings()
        self._free_stagings.put(None)
