"""The models that are served: warmed, watched, looked up by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from service.batching.decode_pool import DecodePool
from service.batching.plan import DeviceLoad
from service.batching.work_source import ConcurrencyLimit
from service.batching.workers import WorkerPool
from service.cpus import cpu_count
from service.engine.base import Opener
from service.errors import (
    BrokenModelError,
    DeviceLostError,
    ModelRequiredError,
    UnknownModelError,
)
from service.models.files import BrokenModel
from service.models.model import ServedModel
from service.tuning.autotune import ParallelismChoice

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ModelSet:
    """The models of a start: those that were loaded, and those whose file can't be.

    `default` is the name for requests that name none. When `strict`, none may be broken.
    """

    loaded: Sequence[ServedModel]
    broken: Sequence[BrokenModel] = ()
    default: str | None = None
    strict: bool = False


class Repository:
    """All served models, by name and version. Fixed once loaded."""

    def __init__(
        self, models: ModelSet, device: DeviceLoad, decode_pool: DecodePool,
        parallelism: ParallelismChoice, stuck_after_s: float, opener: Opener,
    ) -> None:  # fmt: skip
        self._all: dict[str, dict[int, ServedModel | BrokenModel]] = {}
        known: list[ServedModel | BrokenModel] = [*models.loaded, *models.broken]
        for model in known:
            self._all.setdefault(model.name, {})[model.version] = model
        self._models = models
        self._device, self._decode_pool = device, decode_pool
        self.parallelism = parallelism
        self._stuck_after_s = stuck_after_s
        self._opener = opener
        self._pool: WorkerPool | None = None
        self._losing = threading.Lock()
        self.lost: DeviceLostError | None = None
        self.on_device_lost: Callable[[], None] = lambda: None
        """Called once, on the thread that met the loss; nothing can be answered any more."""
        opener.watch(self._lose_device)
        for model in self:
            model.on_device_lost = self._lose_device

    def __iter__(self) -> Iterator[ServedModel]:
        yield from self._models.loaded

    def start(self) -> None:
        """Start the device's threads, which all models share.

        A core decodes or runs a batch; a thread that waits for a GPU leaves its core to others.
        """
        runners, decoders = self.parallelism.parallelism.runners, self._decode_pool.threads
        threads = max(runners, decoders) if self._shares_cores() else runners + decoders
        # Those that decode at a time, and have a core for it.
        self._device.decoders = min(decoders, cpu_count())
        self._device.shares_threads = self._shares_cores()
        self._pool = WorkerPool(threads)
        self._device.running = self._pool.schedule.running
        self._decode_pool.start(self._pool)
        concurrency = ConcurrencyLimit(runners, serial=not self._shares_cores())
        for model in self:
            model.start(self._pool, concurrency)

    def _lose_device(self, error: DeviceLostError) -> None:
        """Answer nobody any more, of any model; readiness goes before those who wait are told."""
        with self._losing:
            if self.lost is not None:
                return
            self.lost = error
        _log.error("device_lost", detail=str(error))
        for model in self:
            model.give_up(error)
        self.on_device_lost()

    def devices(self) -> list[dict[str, Any]]:
        """Describe the GPUs in use; none on a CPU."""
        return self._opener.devices()

    def _shares_cores(self) -> bool:
        return not any(model.engine.provider.own_device for model in self)

    def warm_up(self, stop: threading.Event) -> None:
        """Make every model ready, one after the other; gives up soon once `stop` is set."""
        for model in self:
            model.warm_up(stop)
        for device in self.devices():
            _log.info("gpu", **device)

    def title(self, model: ServedModel) -> str:
        """Name a model, with its version if there are others of that name."""
        several = len(self._all[model.name]) > 1
        return f"{model.name}/{model.version}" if several else model.name

    def broken(self) -> list[BrokenModel]:
        """List the models whose file can't be loaded, or whose answers are not the expected ones.

        Of the latter, one that could not be run at all may still be mended: it is tried again.
        """
        found = [BrokenModel(m.name, m.version, m.reason) for m in self if m.broken]
        return sorted([*self._models.broken, *found], key=lambda model: (model.name, model.version))

    def needed(self) -> list[ServedModel]:
        """List the models that have to be ready for the service to be.

        A broken one is not needed beside others that are whole, unless it answers who names none,
        or the start was to be strict.
        """
        if self._models.strict or all(model.broken for model in self):
            return list(self)
        return [model for model in self if not model.broken or self._answers_by_default(model)]

    def _answers_by_default(self, model: ServedModel) -> bool:
        return model.name == self.default and model.version == max(self._all[model.name])

    def troubles(self) -> dict[str, str]:
        """Say what only a restart mends, by model, and of decoding."""
        if self.lost is not None:
            return {"device": f"lost: {self.lost}"}
        found = {self.title(model): trouble for model in self if (trouble := model.trouble())}
        found |= self._opener.trouble(self._stuck_after_s)
        if self._pool is not None and (trouble := self._decode_pool.trouble(self._stuck_after_s)):
            found["decoding"] = trouble
        return found

    def close(self, timeout_s: float) -> None:
        """Answer what is queued, then stop the runners and free the engines.

        On a lost device nobody is left to be answered, and to free what is there may hang.
        """
        if self.lost is not None:
            return
        end = time.monotonic() + timeout_s
        for model in self:
            model.close(max(0.0, end - time.monotonic()))
        if self._pool is not None:
            self._pool.close(max(0.0, end - time.monotonic()))
        self._opener.close(max(0.0, end - time.monotonic()))

    @property
    def default(self) -> str | None:
        """The model for requests that name none."""
        return self._models.default

    def find(self, name: str | None, version: int | None = None) -> ServedModel:
        """Look a model up; without a version, the highest. A name is never used as a path.

        Raises `ModelRequiredError` or `UnknownModelError`, both listing what there is, and
        `BrokenModelError`: no other version answers in the place of a broken one.
        """
        name = name or self.default
        if name is None:
            raise ModelRequiredError(f"name one of the models with ?model=: {self._served()}")
        versions = self._all.get(name)
        if versions is None:
            raise UnknownModelError(f"there is no model of that name; served are: {self._served()}")
        if version is None:
            version = max(versions)
        found = versions.get(version)
        if found is None:
            there = ", ".join(str(number) for number in sorted(versions))
            raise UnknownModelError(f"model {name} has no version {version}; it has: {there}")
        if isinstance(found, BrokenModel) or found.broken:
            raise BrokenModelError(f"model {name} version {version} is broken: {found.reason}")
        return found

    def _served(self) -> str:
        return ", ".join(sorted({model.name for model in self}))
