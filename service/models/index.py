"""The index of known models: which there are, and whether each can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from service.models.files import ModelFile
from service.models.model_set import ModelSet
from service.models.state import State


class Availability(StrEnum):
    """Whether a model can be asked, in the words of Triton's repository index."""

    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


_AVAILABILITY = {
    State.WARMING: Availability.LOADING,
    State.READY: Availability.READY,
    State.RETIRING: Availability.UNLOADING,
}


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """A model that is known, whether it is served or not; `reason` says why it is not ready."""

    name: str
    version: int
    state: Availability
    reason: str


@dataclass(frozen=True, slots=True)
class NotServed:
    """Why a file is not served."""

    reason: str
    is_loading: bool = False


def index_of(models: ModelSet, files: Mapping[ModelFile, NotServed]) -> list[IndexEntry]:
    """List the served and the broken models, and those `files` that are neither, in order."""
    entries: dict[tuple[str, int], IndexEntry] = {}
    for file, why in files.items():
        state = Availability.LOADING if why.is_loading else Availability.UNAVAILABLE
        key = file.name, file.version
        entries[key] = IndexEntry(*key, state, why.reason)
    for broken in models.broken_files:
        key = broken.name, broken.version
        entries[key] = IndexEntry(*key, Availability.UNAVAILABLE, broken.reason)
    for evicted in models.evicted:
        key = evicted.name, evicted.version
        entries[key] = IndexEntry(*key, Availability.UNAVAILABLE, "evicted; loaded when asked for")
    for model in models.loaded:
        key = model.name, model.version
        state = _AVAILABILITY.get(model.state, Availability.UNAVAILABLE)
        entries[key] = IndexEntry(*key, state, model.reason)
    return [entries[key] for key in sorted(entries)]
