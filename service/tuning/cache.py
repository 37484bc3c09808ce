"""Caches start-up measurements on disk, so that the next start need not repeat them.

There is one JSON file per set of facts that a measurement depends on. Nothing here can make a start
fail: what can't be read is measured, and what can't be written is measured again next time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel

from service.errors import first_line
from service.files import replacing

SCHEMA = 4
"""Increment this when the files' format, or how something is measured, changes."""

_log = structlog.get_logger(__name__)

Fingerprint = Mapping[str, Any]
"""What a measurement depends on: values that survive a round trip through JSON."""

FindFingerprint = Callable[[], Fingerprint | None]
"""Only called if there is a cache, since it reads a model file; None disables caching."""

V = TypeVar("V", bound=BaseModel)


class ProfileCache:
    """A folder of measurements; None caches nothing. Several processes may share it.

    A problem with the folder is logged once, as a warning.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._warned = False

    def read(self, kind: str, find_fingerprint: FindFingerprint, form: type[V]) -> V | None:
        """Return the value cached for a fingerprint; None if there is no valid one."""
        if self._folder is None or (fingerprint := find_fingerprint()) is None:
            return None
        path = self._path(self._folder, kind, fingerprint)
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            if entry["schema"] != SCHEMA or entry["fingerprint"] != fingerprint:
                raise ValueError("its fingerprint differs")  # noqa: TRY301 - handled like the others
            return form.model_validate(entry["value"])
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            _log.warning("cache_entry_ignored", path=str(path), detail=first_line(error))
        return None

    def write(self, kind: str, find_fingerprint: FindFingerprint, value: BaseModel) -> None:
        """Cache a value for a fingerprint, replacing any other."""
        if self._folder is None or (fingerprint := find_fingerprint()) is None:
            return
        entry = {
            "schema": SCHEMA,
            "fingerprint": fingerprint,
            "value": value.model_dump(mode="json"),
        }
        path = self._path(self._folder, kind, fingerprint)
        try:
            # Readers see the old file or the new one, even if others write it at the same time.
            with replacing(path) as draft:
                draft.write_text(json.dumps(entry, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            self._warn(error)

    @staticmethod
    def _path(folder: Path, kind: str, fingerprint: Fingerprint) -> Path:
        key = json.dumps({"schema": SCHEMA, "fingerprint": fingerprint}, sort_keys=True)
        return folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()}.json"

    def _warn(self, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "cache_unusable",
                folder=str(self._folder),
                detail=f"{error.strerror or error}; every start measures again (set --cache-dir "
                "to another folder, or to none)",
            )
