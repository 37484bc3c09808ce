"""Single changes of what is served: a file is loaded, or a model retired; one at a time.

Also remembers what came of each file, so that nobody tries in vain, or undoes what was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

import structlog

from service.errors import ModelSelectionError, NoRoomError, StartupError
from service.metrics import Metrics
from service.models.eviction import EvictedModel, Newcomer, Room
from service.models.files import BrokenModel, ModelFile, available, reason_for_clients
from service.models.index import NotServed
from service.models.model import ServedModel
from service.models.repository import Repository
from service.models.stamps import Stamp, stamp_of
from service.settings import Settings

Key = tuple[str, int]
"""A model's name and version."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Failure:
    stamp: Stamp
    reason: str


class Changes:
    """Use it on the event loop on which the models answer, and hold `lock` while you change."""

    def __init__(self, repository: Repository, settings: Settings, metrics: Metrics) -> None:
        self.repository, self.settings = repository, settings
        self.lock = asyncio.Lock()
        self.loading: ModelFile | None = None
        """The file that is being loaded."""
        self.room = Room(settings)
        self._metrics = metrics
        self._failures: dict[Key, _Failure] = {}
        self._unloaded: dict[Key, Stamp] = {}
        self._load_s: dict[Key, float] = {}
        self._last_load_s = 1.0
        self._note_broken()

    def _note_broken(self) -> None:
        """Remember the files that could not be loaded at the start, which need no second try."""
        broken = {(m.name, m.version): m.reason for m in self.repository.models.broken_files}
        with contextlib.suppress(ModelSelectionError):
            for file in available(self.settings).files:
                if (reason := broken.get((file.name, file.version))) is not None:
                    self._failures[file.name, file.version] = _Failure(stamp_of(file), reason)

    async def load(self, file: ModelFile) -> ServedModel | BrokenModel:
        """Serve a file, or return what serves it already; if it can't be served, say why not.

        A failure is logged, counted and remembered, and changes nothing.
        """
        key = file.name, file.version
        stamp = await asyncio.to_thread(stamp_of, file)
        served = self.repository.models.get(*key)
        if isinstance(served, ServedModel) and served.stamp == stamp and not served.broken:
            self._failures.pop(key, None)
            return served
        self.loading, started = file, time.monotonic()
        try:
            await self._make_room(file)
            model = await self.repository.install(file, retire_s=self.settings.drain_timeout_s)
        except (NoRoomError, StartupError) as error:  # of the file, its settings or its provider
            reason = reason_for_clients(error, file.path)
            _log.error("model_load_failed", model=key[0], version=key[1], detail=str(error))
            if not (isinstance(error, NoRoomError) and isinstance(served, EvictedModel)):
                self._failures[key] = _Failure(stamp, reason)  # else, there may be room next time
            self._metrics.count_load(file.name, "failed")
            return BrokenModel(*key, reason)
        finally:
            self.loading = None
        self._failures.pop(key, None)
        self._unloaded.pop(key, None)
        self._metrics.count_load(file.name, "ok")
        self._load_s[key] = self._last_load_s = time.monotonic() - started
        return model

    async def _make_room(self, file: ModelFile) -> None:
        """Evict what must go before a file is loaded; raises `NoRoomError`."""
        new = await asyncio.to_thread(Newcomer.of, file)
        for victim in self.room.make(new, self.repository.models.loaded):
            await self.repository.evict(victim, timeout_s=self.settings.drain_timeout_s)
            self._metrics.count_eviction(victim.name)

    async def retire(self, key: Key, *, on_request: bool = False) -> None:
        """Stop serving a model; if it was `on_request`, remember not to serve that file again."""
        model, failure = self.repository.models.get(*key), self._failures.pop(key, None)
        if on_request and isinstance(model, ServedModel | EvictedModel):
            self._unloaded[key] = model.stamp
        elif on_request and failure is not None:  # of a file that is broken
            self._unloaded[key] = failure.stamp
        await self.repository.retire(*key, timeout_s=self.settings.drain_timeout_s)

    def is_settled(self, file: ModelFile, stamp: Stamp) -> bool:
        """Return whether nothing is to be done about a file, as long as it stays as it is.

        It is served, or would be when asked for; or it was unloaded on request, or has failed.
        """
        key = file.name, file.version
        served, failure = self.repository.models.get(*key), self._failures.get(key)
        if isinstance(served, ServedModel | EvictedModel) and served.stamp == stamp:
            self._failures.pop(key, None)  # what failed has been taken back
            return True
        has_failed = failure is not None and failure.stamp == stamp
        return has_failed or self._unloaded.get(key) == stamp

    def remembered(self) -> set[Key]:
        """Return the files that have failed, or were unloaded on request."""
        return self._failures.keys() | self._unloaded.keys()

    def forget(self, key: Key) -> None:
        """Forget a file that is gone."""
        self._failures.pop(key, None)
        self._unloaded.pop(key, None)

    def failure_of(self, key: Key) -> str | None:
        """Return why a file could not be loaded; None if it could, or was not tried."""
        failure = self._failures.get(key)
        return failure.reason if failure else None

    def load_s(self, key: Key) -> float:
        """Return how many seconds a model's last load took, or any model's if it had none."""
        return self._load_s.get(key, self._last_load_s)

    def failed(self) -> list[BrokenModel]:
        """List the files that could not be loaded since the start.

        An older file of that name and version may be served.
        """
        broken = {(model.name, model.version) for model in self.repository.models.broken_files}
        failed = sorted(self._failures.keys() - broken)
        return [BrokenModel(*key, self._failures[key].reason) for key in failed]

    def why_not(self, file: ModelFile) -> NotServed:
        """Return why a file is not served, in case it is not."""
        key = file.name, file.version
        if file == self.loading:
            return NotServed("being loaded", is_loading=True)
        if failure := self._failures.get(key):
            return NotServed(failure.reason)
        return NotServed("unloaded" if key in self._unloaded else "not loaded")
