"""The served models: warmed up, monitored, and looked up by name."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog

from service.batching.decode_pool import DecodePool
from service.batching.plan import DeviceLoad
from service.batching.work_source import ConcurrencyLimit
from service.batching.workers import WorkerPool
from service.cpus import cpu_count
from service.errors import (
    DeviceLostError,
    EvictedModelError,
    ModelFileError,
    UnknownModelError,
)
from service.models.eviction import EvictedModel
from service.models.files import ModelFile
from service.models.model import ServedModel
from service.models.model_loader import ModelLoader
from service.models.model_set import Known, ModelSet
from service.models.state import State
from service.tuning.autotune import ParallelismChoice
from service.versions import VersionPolicy

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Repository:
    """All served models, by name and version.

    Change it on the event loop; any thread may read it.
    """

    def __init__(
        self, models: ModelSet, device: DeviceLoad, decode_pool: DecodePool,
        parallelism: ParallelismChoice, stuck_after_s: float, loader: ModelLoader,
    ) -> None:  # fmt: skip
        self.models = models
        """The models that are served at present."""
        self._device, self._decode_pool = device, decode_pool
        self.parallelism = parallelism
        self._stuck_after_s = stuck_after_s
        self._opener, self._loader = loader.opener, loader
        self._shares_cores = not any(model.engine.provider.own_device for model in self)
        self._pool: WorkerPool | None = None
        self._concurrency: ConcurrencyLimit | None = None
        self._installing: threading.Event | None = None  # set to give up
        self._changing = asyncio.Lock()
        self._losing = threading.Lock()
        self.lost: DeviceLostError | None = None
        self.on_device_lost: Callable[[], None] = lambda: None
        """Called once, on the thread that detected the loss; nothing can be answered any more."""
        self.on_evicted: Callable[[EvictedModel], None] = lambda _: None
        """Called when an evicted model is asked for; may raise what the request gets."""
        self.on_change: Callable[[str], None] = lambda _: None
        """Called with a model's name when a version of it was installed or is gone."""
        self._opener.watch(self._lose_device)
        for model in self:
            model.on_device_lost = self._lose_device
            model.show_metrics()

    def __iter__(self) -> Iterator[ServedModel]:
        yield from self.models.loaded

    @property
    def is_idle(self) -> bool:
        """Return whether no image of any model is waiting or running."""
        return self._device.is_idle

    def set_policy(self, name: str, policy: VersionPolicy | None) -> None:
        """Have a model's versions answer by another policy than its settings say; None: by them."""
        others = {key: value for key, value in self.models.policies.items() if key != name}
        policies = others if policy is None else {**others, name: policy}
        self.models = replace(self.models, policies=policies)

    def start(self) -> None:
        """Start the device's threads, which all models share.

        On a CPU, a core either decodes or runs a batch; a thread that waits for a GPU needs none.
        """
        runners, decoders = self.parallelism.parallelism.runners, self._decode_pool.threads
        threads = max(runners, decoders) if self._shares_cores else runners + decoders
        # Decoders that can run at a time, each on its own core.
        self._device.decoders = min(decoders, cpu_count())
        self._device.shares_threads = self._shares_cores
        self._pool = WorkerPool(threads)
        self._device.running = self._pool.schedule.running
        self._decode_pool.start(self._pool)
        self._concurrency = ConcurrencyLimit(runners, serial=not self._shares_cores)
        for model in self:
            model.start(self._pool, self._concurrency)

    def _lose_device(self, error: DeviceLostError) -> None:
        """Stop all models; they become unready before waiting requests are failed."""
        with self._losing:
            if self.lost is not None:
                return
            self.lost = error
        _log.error("device_lost", detail=str(error))
        for model in self:
            model.give_up(error)
        self.on_device_lost()

    def devices(self) -> list[dict[str, Any]]:
        """Describe the GPUs in use; empty on a CPU."""
        return self._opener.devices()

    def warm_up(self, stop: threading.Event) -> None:
        """Make every model ready, one after another; returns early once `stop` is set."""
        for model in self:
            model.warm_up(stop)
        for device in self.devices():
            _log.info("gpu", **device)

    def troubles(self) -> dict[str, str]:
        """Return the problems that only a restart fixes, by model, device or "decoding"."""
        if self.lost is not None:
            return {"device": f"lost: {self.lost}"}
        found = {
            self.models.title(model): trouble for model in self if (trouble := model.trouble())
        }
        found |= self._opener.trouble(self._stuck_after_s)
        if self._pool is not None and (trouble := self._decode_pool.trouble(self._stuck_after_s)):
            found["decoding"] = trouble
        return found

    def close(self, timeout_s: float) -> None:
        """Answer what is queued, then stop the runners and close the engines.

        Does nothing if the device is lost: no request is left to answer, and closing may hang.
        """
        if self.lost is not None:
            return
        end = time.monotonic() + timeout_s
        if self._installing is not None:
            self._installing.set()
        for model in self:
            model.close(max(0.0, end - time.monotonic()))
        if self._pool is not None:
            self._pool.close(max(0.0, end - time.monotonic()))
        self._opener.close(max(0.0, end - time.monotonic()))

    def find(
        self, name: str | None, version: int | None = None, request_id: str | None = None
    ) -> ServedModel:
        """Look up a model. A name is never used as a path.

        Without a version, the highest answers, or those that the settings say, drawn by request id.

        Raises `ModelRequiredError` or `UnknownModelError`, both listing what is available,
        `BrokenModelError`, since no other version replaces a broken one, or what `on_evicted` does.
        """
        found = self.models.find(name, version, request_id)
        if isinstance(found, EvictedModel):
            self.on_evicted(found)
            raise _evicted(found)
        found.last_used = time.monotonic()
        return found

    def look_up(
        self, name: str | None, version: int | None = None, request_id: str | None = None
    ) -> ServedModel:
        """Look up a model to describe it, which neither uses it nor has it loaded.

        Raises what `find` does, and `EvictedModelError` for an evicted one.
        """
        found = self.models.find(name, version, request_id)
        if isinstance(found, EvictedModel):
            raise _evicted(found)
        return found

    async def install(self, file: ModelFile, *, retire_s: float) -> ServedModel:
        """Serve another model file, replacing any model with the same name and version.

        It is loaded and proved while the others answer; only then do requests find it. A model that
        it replaces still answers the requests it has accepted, for at most `retire_s` seconds.

        Raises `ModelFileError` if the file can't be served; then nothing has changed.
        """
        async with self._changing:
            loaded = await _in_thread(
                partial(self._loader.open, file), lambda loaded: loaded.engine.close()
            )
            model = self._loader.serve(loaded)
            try:
                await self._make_ready(model, file)
            except BaseException:
                model.gate.leave()
                self._forget(model)
                raise
            before = self.models.get(model.name, model.version)
            model.show_metrics()
            self.models = self.models.having(model)
            self.on_change(model.name)
            _log.info("model_installed", model=model.name, version=model.version)
            if isinstance(before, ServedModel):
                await before.retire(retire_s)
            return model

    async def _make_ready(self, model: ServedModel, file: ModelFile) -> None:
        """Warm up a model; on failure or cancellation close it. Raises `ModelFileError`."""
        if self._pool is None or self._concurrency is None:
            raise RuntimeError("the repository has not been started")
        stop = self._installing = threading.Event()
        model.on_device_lost = self._lose_device
        model.start(self._pool, self._concurrency)

        def prove() -> str:
            model.warm_up(stop)
            if model.state is State.READY:
                return ""
            reason = model.reason
            model.close(0.0)
            return reason

        try:
            reason = await _in_thread(prove, lambda _: model.close(0.0))
        finally:
            stop.set()
            self._installing = None
        if reason:
            raise ModelFileError(f"{file.path}: {reason}")

    async def retire(self, name: str, version: int, *, timeout_s: float) -> None:
        """Stop serving a model: new requests don't find it, but accepted ones are answered.

        What is not answered within `timeout_s` is failed. Raises `UnknownModelError`.
        """
        async with self._changing:
            model = self.models.get(name, version)
            if model is None:
                raise UnknownModelError(f"there is no model {name} with version {version}")
            self.models = self.models.without(name, version)
            self.on_change(name)
            try:
                if isinstance(model, ServedModel):
                    await model.retire(timeout_s)
            finally:
                self._forget(model)
            _log.info("model_retired", model=name, version=version)

    async def evict(self, model: ServedModel, *, timeout_s: float) -> None:
        """Stop serving a model until it is asked for again; its counters stay."""
        async with self._changing:
            evicted = EvictedModel(model.file, model.stamp, model.memory, model.options.policy)
            self.models = self.models.evicting(evicted)
            await model.retire(timeout_s)
            model.hide_from_metrics()
            _log.info("model_evicted", model=model.name, version=model.version)

    def _forget(self, model: Known) -> None:
        """Remove a model's metrics, unless another has its name and version."""
        if self.models.get(model.name, model.version) is None:
            self._loader.forget(model.name, model.version)


def _evicted(model: EvictedModel) -> EvictedModelError:
    return EvictedModelError(
        f"model {model.name} version {model.version} is evicted; a request for its answers has it "
        "loaded again"
    )


async def _in_thread(call: Callable[[], T], undo: Callable[[T], None]) -> T:
    """Return the result of `call` in a thread; if cancelled meanwhile, pass that to `undo`."""

    def end(work: asyncio.Future[T]) -> None:
        if not work.cancelled() and work.exception() is None:
            undo(work.result())

    work = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.add_done_callback(end)
        raise
