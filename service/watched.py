"""Files that may change while the service runs: looked at every few seconds, without a signal."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

_PERIOD_S = 2.0

_Signature = tuple[tuple[int, int, int] | None, ...]


class WatchedFiles:
    """Some files; a link is followed, as to a secret that Kubernetes replaces."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen = self._look()

    def changed(self) -> bool:
        """Return whether a file is another than at the last call; files that are gone are too."""
        before, self._seen = self._seen, self._look()
        return self._seen != before

    def _look(self) -> _Signature:
        return tuple(map(_signature, self._paths))


def _signature(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class Reloadable(Protocol):
    """What is read from files."""

    files: WatchedFiles

    def reload(self) -> None:
        """Read the files again, and log what is wrong with them."""


async def watch(readers: Sequence[Reloadable]) -> None:
    """Have each reader read its files again when they have changed, until cancelled."""
    while readers:
        await asyncio.sleep(_PERIOD_S)
        for reader in readers:
            if await asyncio.to_thread(reader.files.changed):
                await asyncio.to_thread(reader.reload)
