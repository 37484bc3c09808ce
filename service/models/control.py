"""Loads, unloads and lists models on demand, while the others are being served."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from service.errors import (
    InvalidParameterError,
    ModelLoadError,
    ModelSelectionError,
    UnknownModelError,
)
from service.models.changes import Changes, Key
from service.models.files import BrokenModel, ModelFile, available, reason_for_clients
from service.models.index import Availability, IndexEntry, index_of
from service.models.model import ServedModel
from service.wording import shortened


class Control:
    """Changes which models are served. Use it on the event loop on which they answer.

    Calls are carried out one at a time. A call that is cancelled leaves what it has not finished as
    it was.
    """

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    async def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        """List what is served, what is broken, and what the model folder has beside it, in order.

        A folder that can't be read adds nothing.
        """
        try:
            files = (await asyncio.to_thread(available, self._changes.settings)).files
        except ModelSelectionError:
            files = []
        changes = self._changes
        listed = [*files, *([changes.loading] if changes.loading else [])]
        why_not = {file: changes.why_not(file) for file in listed}
        found = index_of(changes.repository.models, why_not)
        return [each for each in found if not ready_only or each.state is Availability.READY]

    def failed(self) -> list[BrokenModel]:
        """List the files that could not be loaded since the start.

        An older file of that name and version may be served.
        """
        return self._changes.failed()

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
        async with self._changes.lock:
            files = [file for file in await self._files() if file.name == name]
            wanted = [file for file in files if version in (None, file.version)]
            if not wanted:
                raise UnknownModelError(self._no_file(name, version, files))
            served = [await self._changes.load(file) for file in wanted]
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
        async with self._changes.lock:
            served = [key for key in self._served_versions(name) if version in (None, key[1])]
            if not served and not any(
                entry.name == name and version in (None, entry.version)
                for entry in await self.index()
            ):
                raise UnknownModelError(self._no_file(name, version, []))
            for key in served:
                await self._changes.retire(key, on_request=True)

    async def _files(self) -> Sequence[ModelFile]:
        """Return the files in the model folder; raises `ModelLoadError` if it can't be read."""
        try:
            return (await asyncio.to_thread(available, self._changes.settings)).files
        except ModelSelectionError as error:
            # Only a folder that was given can't be read; clients need not know where it is.
            reason = reason_for_clients(error, self._changes.settings.models or Path())
            raise ModelLoadError(f"the model folder {reason}") from error

    async def _retire_all_but(self, name: str, versions: set[int]) -> None:
        for key in self._served_versions(name):
            if key[1] not in versions:
                await self._changes.retire(key)

    def _served_versions(self, name: str) -> list[Key]:
        models = self._changes.repository.models
        return [(name, version) for version in models.known_versions(name)]

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
