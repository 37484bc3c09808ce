"""Loads, unloads and lists models on demand, while the others are being served."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.errors import (
    BrokenModelError,
    EvictedModelError,
    InvalidParameterError,
    ModelLoadError,
    ModelSelectionError,
    NoRoomError,
    StartupError,
    UnknownModelError,
)
from service.metrics import Metrics
from service.models.eviction import Newcomer, Room
from service.models.files import (
    BrokenModel,
    EvictedModel,
    ModelFile,
    Stamp,
    available,
    reason_for_clients,
    stamp_of,
)
from service.models.index import Availability, IndexEntry, NotServed, index_of
from service.models.model import ServedModel
from service.models.repository import Repository
from service.settings import Settings
from service.wording import shortened

Key = tuple[str, int]
"""A model's name and version."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Failure:
    stamp: Stamp
    reason: str


class Control:
    """Changes which models are served. Use it on the event loop on which they answer.

    Calls are carried out one at a time. A call that is cancelled leaves what it has not finished as
    it was.
    """

    def __init__(self, repository: Repository, settings: Settings, metrics: Metrics) -> None:
        self._repository, self._settings = repository, settings
        self._metrics = metrics
        self._changing = asyncio.Lock()
        self._loading: ModelFile | None = None
        self._failures: dict[Key, _Failure] = {}
        self._unloaded: dict[Key, Stamp] = {}
        self._room = Room(settings)
        self._load_s: dict[Key, float] = {}
        self._last_load_s = 1.0
        self._returning: dict[Key, asyncio.Task[None]] = {}
        repository.on_evicted = self._bring_back
        self._note_broken()

    def _note_broken(self) -> None:
        """Remember the files that could not be loaded at the start, which need no second try."""
        broken = {(m.name, m.version): m.reason for m in self._repository.models.broken_files}
        with contextlib.suppress(ModelSelectionError):
            for file in available(self._settings).files:
                if (reason := broken.get((file.name, file.version))) is not None:
                    self._failures[file.name, file.version] = _Failure(stamp_of(file), reason)

    async def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        """List what is served, what is broken, and what the model folder has beside it, in order.

        A folder that can't be read adds nothing.
        """
        try:
            files = (await asyncio.to_thread(available, self._settings)).files
        except ModelSelectionError:
            files = []
        listed = [*files, *([self._loading] if self._loading else [])]
        found = index_of(self._repository.models, {file: self._why_not(file) for file in listed})
        return [each for each in found if not ready_only or each.state is Availability.READY]

    def failed(self) -> list[BrokenModel]:
        """List the files that could not be loaded since the start.

        An older file of that name and version may be served.
        """
        broken = {(model.name, model.version) for model in self._repository.models.broken_files}
        failed = sorted(self._failures.keys() - broken)
        return [BrokenModel(*key, self._failures[key].reason) for key in failed]

    async def load(
        self, name: str, parameters: Mapping[str, object] | None = None
    ) -> list[ServedModel]:
        """Serve the newest files of a model, or only the version in `parameters["version"]`.

        Files that are served and have not changed stay. A file that has changed replaces the old
        one once it is proved, and the old one answers what it has accepted. Versions whose files
        are gone are retired. Returns what is served of the files.

        Raises `InvalidParameterError` for other parameters, `UnknownModelError` if there is no such
        file, and `ModelLoadError` if one can't be served: then the old one still is.
        """
        version = _version_in(parameters)
        async with self._changing:
            files = [file for file in await self._files() if file.name == name]
            wanted = [file for file in files if version in (None, file.version)]
            if not wanted:
                raise UnknownModelError(self._no_file(name, version, files))
            served = [await self._load_unless_served(file) for file in wanted]
            if version is None:
                await self._retire_all_but(name, {file.version for file in files})
            if wrong := [each for each in served if isinstance(each, BrokenModel)]:
                raise ModelLoadError(
                    "; ".join(f"model {m.name} version {m.version}: {m.reason}" for m in wrong)
                )
            return [each for each in served if isinstance(each, ServedModel)]

    async def unload(self, name: str, parameters: Mapping[str, object] | None = None) -> None:
        """Stop serving a model, or only the version in `parameters["version"]`.

        What it has accepted is answered, within `drain_timeout_s`. Raises `InvalidParameterError`
        for parameters other than that and Triton's `unload_dependents`, and `UnknownModelError` if
        no such model is known.
        """
        version = _version_in(parameters, others=("unload_dependents",))
        async with self._changing:
            served = [key for key in self._served_versions(name) if version in (None, key[1])]
            if not served and not any(
                entry.name == name and version in (None, entry.version)
                for entry in await self.index()
            ):
                raise UnknownModelError(self._no_file(name, version, []))
            for key in served:
                model = self._repository.models.get(*key)
                if isinstance(model, ServedModel | EvictedModel):
                    self._unloaded[key] = model.stamp
                await self._retire(key)

    async def follow(self, file: ModelFile, stamp: Stamp) -> None:
        """Serve a file of a watched folder, unless it is served, was unloaded or has failed.

        A file that can't be served is logged and counted, and then left alone until it changes.
        """
        if self._is_settled((file.name, file.version), stamp):
            return
        async with self._changing:
            if await asyncio.to_thread(stamp_of, file) == stamp:  # else it is being written
                await self._load_unless_served(file)

    def _is_settled(self, key: Key, stamp: Stamp) -> bool:
        """Return whether nothing is to be done about a file, as long as it stays as it is."""
        served, failure = self._repository.models.get(*key), self._failures.get(key)
        return (
            (isinstance(served, ServedModel | EvictedModel) and served.stamp == stamp)
            or (failure is not None and failure.stamp == stamp)
            or self._unloaded.get(key) == stamp
        )

    async def withdraw(self, file: ModelFile) -> None:
        """Retire what is served of a file that is gone."""
        async with self._changing:
            key = file.name, file.version
            served = self._repository.models.get(*key)
            if isinstance(served, ServedModel | EvictedModel) and served.file == file:
                _log.info("model_file_gone", model=file.name, version=file.version)
                await self._retire(key)

    async def forget_all_but(self, there: Collection[Key]) -> None:
        """Forget the files that could not be loaded, or were unloaded, and are gone."""
        async with self._changing:
            for key in [*self._failures.keys() | self._unloaded.keys()]:
                if key not in there:
                    self._failures.pop(key, None)
                    self._unloaded.pop(key, None)
                    if isinstance(self._repository.models.get(*key), BrokenModel):
                        await self._retire(key)

    def served_files(self) -> list[ModelFile]:
        """List the files that are served, or would be when asked for."""
        models = self._repository.models
        return [*(model.file for model in models.loaded), *(each.file for each in models.evicted)]

    async def _files(self) -> Sequence[ModelFile]:
        """Return the files in the model folder; raises `ModelLoadError` if it can't be read."""
        try:
            return (await asyncio.to_thread(available, self._settings)).files
        except ModelSelectionError as error:
            # Only a folder that was given can't be read; clients need not know where it is.
            reason = reason_for_clients(error, self._settings.models or Path())
            raise ModelLoadError(f"the model folder {reason}") from error

    async def _load_unless_served(self, file: ModelFile) -> ServedModel | BrokenModel:
        """Serve a file, or return what serves it already; if it can't be served, say why not."""
        key = file.name, file.version
        stamp = await asyncio.to_thread(stamp_of, file)
        served = self._repository.models.get(*key)
        if isinstance(served, ServedModel) and served.stamp == stamp and not served.broken:
            self._failures.pop(key, None)
            return served
        self._loading, started = file, time.monotonic()
        try:
            await self._make_room(file)
            model = await self._repository.install(file, retire_s=self._settings.drain_timeout_s)
        except (NoRoomError, StartupError) as error:  # of the file, its settings or its provider
            reason = reason_for_clients(error, file.path)
            _log.error("model_load_failed", model=key[0], version=key[1], detail=str(error))
            self._failures[key] = _Failure(stamp, reason)
            self._metrics.count_load(file.name, "failed")
            return BrokenModel(*key, reason)
        finally:
            self._loading = None
        self._failures.pop(key, None)
        self._unloaded.pop(key, None)
        self._metrics.count_load(file.name, "ok")
        self._load_s[key] = self._last_load_s = time.monotonic() - started
        return model

    async def _make_room(self, file: ModelFile) -> None:
        """Evict what must go before a file is loaded; raises `NoRoomError`."""
        new = await asyncio.to_thread(Newcomer.of, file)
        for victim in self._room.make(new, self._repository.models.loaded):
            await self._repository.evict(victim, timeout_s=self._settings.drain_timeout_s)
            self._metrics.count_eviction(victim.name)

    def _bring_back(self, model: EvictedModel) -> None:
        """Begin to load an evicted model; always raises what the request that asked for it gets."""
        key = model.name, model.version
        if failure := self._failures.get(key):
            raise BrokenModelError(
                f"model {model.name} version {model.version} is broken: {failure.reason}"
            )
        self._room.make(model, self._repository.models.loaded)
        if key not in self._returning:
            self._returning[key] = asyncio.create_task(self._load_evicted(model))
        raise EvictedModelError(
            f"model {model.name} version {model.version} was evicted to make room for others, and "
            "is being loaded again; try again later",
            retry_after_s=max(1, math.ceil(self._load_s.get(key, self._last_load_s))),
        )

    async def _load_evicted(self, model: EvictedModel) -> None:
        key = model.name, model.version
        try:
            async with self._changing:
                if isinstance(self._repository.models.get(*key), EvictedModel):
                    await self._load_unless_served(model.file)
        except Exception:  # noqa: BLE001 - nobody waits for this task
            _log.exception("model_load_failed", model=model.name, version=model.version)
        finally:
            del self._returning[key]

    async def _retire_all_but(self, name: str, versions: set[int]) -> None:
        for key in self._served_versions(name):
            if key[1] not in versions:
                await self._retire(key)

    async def _retire(self, key: Key) -> None:
        self._failures.pop(key, None)
        await self._repository.retire(*key, timeout_s=self._settings.drain_timeout_s)

    def _served_versions(self, name: str) -> list[Key]:
        return [(name, version) for version in self._repository.models.known_versions(name)]

    def _why_not(self, file: ModelFile) -> NotServed:
        """Return why a file is not served, in case it is not."""
        key = file.name, file.version
        if file == self._loading:
            return NotServed("being loaded", is_loading=True)
        if failure := self._failures.get(key):
            return NotServed(failure.reason)
        return NotServed("unloaded" if key in self._unloaded else "not loaded")

    def _no_file(self, name: str, version: int | None, files: Sequence[ModelFile]) -> str:
        if files:
            there = ", ".join(str(file.version) for file in files)
            return f"model {name} has no file of version {version}; available: {there}"
        return f"there is no model file named {shortened(name)!r}"


def _version_in(parameters: Mapping[str, object] | None, others: Sequence[str] = ()) -> int | None:
    """Return the version asked for. Raises `InvalidParameterError`."""
    given = dict(parameters or {})
    version = given.pop("version", None)
    for name in others:
        given.pop(name, None)
    if given:
        raise InvalidParameterError(
            f"there is no parameter {shortened(next(iter(given)))!r}; "
            f"allowed: {', '.join(('version', *others))}"
        )
    if version is None or (isinstance(version, int) and not isinstance(version, bool)):
        return version
    raise InvalidParameterError(f"version must be a whole number, got {shortened(str(version))!r}")
