"""Loads evicted models again when they are asked for."""

from __future__ import annotations

import asyncio
import math

import structlog

from service.errors import BrokenModelError, EvictedModelError
from service.models.changes import Changes, Key
from service.models.eviction import EvictedModel

_log = structlog.get_logger(__name__)


class Recall:
    """Begins a load for the first request that asks for an evicted model, and refuses that one.

    The client is told to come back after the time that the last load took: held until then,
    requests would fill the queues with work that can't be planned.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._loads: dict[Key, asyncio.Task[None]] = {}

    def refuse(self, model: EvictedModel) -> None:
        """Begin to load a model, unless that has begun.

        Always raises what the request that asked for it gets: `EvictedModelError`, or if it can't
        be loaded `BrokenModelError` or `NoRoomError`.
        """
        changes, key = self._changes, (model.name, model.version)
        if reason := changes.failure_of(key):
            raise BrokenModelError(
                f"model {model.name} version {model.version} is broken: {reason}"
            )
        changes.room.make(model, changes.repository.models.loaded)
        if key not in self._loads:
            self._loads[key] = asyncio.create_task(self._load(model))
        raise EvictedModelError(
            f"model {model.name} version {model.version} was evicted to make room for others, and "
            "is being loaded again; try again later",
            retry_after_s=max(1, math.ceil(changes.load_s(key))),
        )

    async def _load(self, model: EvictedModel) -> None:
        key = model.name, model.version
        try:
            async with self._changes.lock:
                if isinstance(self._changes.repository.models.get(*key), EvictedModel):
                    await self._changes.load(model.file)
        except Exception:  # noqa: BLE001 - nobody waits for this task
            _log.exception("model_load_failed", model=model.name, version=model.version)
        finally:
            del self._loads[key]
