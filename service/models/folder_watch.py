"""Watches the model folder, and follows what changes in it.

It is polled: notifications of the kernel come neither from network file systems nor from mounts
that are replaced as a whole. A file counts once it looks the same in two looks, so that one that is
still being written is left alone; whatever is read in spite of that has to agree with its golden
cases.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from service.errors import ModelSelectionError
from service.metrics import Metrics
from service.models.changes import Changes, Key
from service.models.files import (
    BrokenModel,
    ModelFile,
    PassedOver,
    available,
    builtin_file,
    reason_for_clients,
)
from service.models.stamps import Stamp, is_there, stamp_of

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Look:
    """What the folder had at one time."""

    files: Mapping[ModelFile, Stamp] = field(default_factory=dict)
    passed_over: frozenset[PassedOver] = frozenset()

    def hides(self, file: ModelFile) -> bool:
        """Return whether a file may be there although it was not found."""
        return any(each.path in (file.path, file.path.parent) for each in self.passed_over)


class FolderWatch:
    """Loads what is new or has changed in the model folder, and retires what is gone.

    If the folder can't be read or has no model left, as when its volume is not mounted, everything
    stays as it is.
    """

    def __init__(self, changes: Changes, metrics: Metrics) -> None:
        self._changes, self._metrics = changes, metrics
        self._settings = changes.settings
        self._before: _Look | None = None
        self.trouble = ""
        """Why the folder can't be followed at present; empty if it can."""

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # noqa: BLE001 - the next look may succeed
                _log.exception("watch_failed")
            await asyncio.sleep(self._settings.watch_interval_s)

    async def look(self) -> None:
        """Compare the folder with what is served, and act on what looked the same last time."""
        now = await asyncio.to_thread(self._find)
        if now is None:
            return
        before, self._before = self._before, now
        if before is None:
            return  # the start has told what is passed over
        for passed_over in sorted(now.passed_over - before.passed_over, key=str):
            _log.warning(
                "model_file_passed_over", path=str(passed_over.path), detail=passed_over.reason
            )
        for file, stamp in now.files.items():
            if before.files.get(file) == stamp and not self._changes.is_settled(file, stamp):
                await self._follow(file, stamp)
        await self._withdraw_gone(before, now)

    async def _follow(self, file: ModelFile, stamp: Stamp) -> None:
        """Serve a file, unless it has changed since: then it may still be being written."""
        async with self._changes.lock:
            if await asyncio.to_thread(stamp_of, file) == stamp:
                await self._changes.load(file)

    async def _withdraw_gone(self, before: _Look, now: _Look) -> None:
        """Retire what was in neither look, unless it may only have been hidden."""
        there = {builtin_file(), *before.files, *now.files}
        models = self._changes.repository.models
        served = [*(m.file for m in models.loaded), *(m.file for m in models.evicted)]
        for file in served:
            if file not in there and not (before.hides(file) or now.hides(file)):
                _log.info("model_file_gone", model=file.name, version=file.version)
                await self._retire((file.name, file.version))
        if not now.passed_over:
            keys = {(file.name, file.version) for file in there}
            for key in self._changes.remembered() - keys:
                self._changes.forget(key)
                if isinstance(models.get(*key), BrokenModel):
                    await self._retire(key)

    async def _retire(self, key: Key) -> None:
        async with self._changes.lock:
            if self._changes.repository.models.get(*key) is not None:
                await self._changes.retire(key)

    def _find(self) -> _Look | None:
        """Look at the folder; None if it can't be followed, which is reported once."""
        try:
            found = available(self._settings)
        except ModelSelectionError as error:
            self._report(reason_for_clients(error, self._settings.models or Path()))
            return None
        files = {file: stamp_of(file) for file in found.files}
        there = {file: stamp for file, stamp in files.items() if is_there(stamp)}
        if not there.keys() - {builtin_file()}:
            self._report("has no model files any more")
            return None
        self._report("")
        return _Look(there, frozenset(found.passed_over))

    def _report(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            _log.error("watch_trouble", path=str(self._settings.models), detail=trouble)
        elif self.trouble and not trouble:
            _log.info("watch_trouble_over", path=str(self._settings.models), was=self.trouble)
        self.trouble = trouble
        self._metrics.watch_failing.set(bool(trouble))
