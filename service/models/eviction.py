"""Which models there is room for, and which make room: least recently used.

Pinned ones and those that a rollout compares never do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.errors import NoRoomError
from service.models.files import ModelFile
from service.models.model import ServedModel
from service.models.stamps import Stamp, memory_of
from service.settings import Settings
from service.versions import VersionPolicy


class Resident(Protocol):
    """A model that takes memory, or would."""

    @property
    def name(self) -> str:
        """Return the model's name."""

    @property
    def version(self) -> int:
        """Return the model's version."""

    @property
    def memory(self) -> int:
        """Return the estimated bytes that it takes."""


@dataclass(frozen=True, slots=True)
class EvictedModel:
    """A model that is loaded when it is asked for; it was evicted, or never had room."""

    file: ModelFile
    stamp: Stamp
    memory: int
    """The bytes that it would take."""
    policy: VersionPolicy | None
    """Which version of the model answers, if its settings say."""

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.file.name

    @property
    def version(self) -> int:
        """Return the model's version."""
        return self.file.version


@dataclass(frozen=True, slots=True)
class Newcomer:
    """A file that is about to be loaded."""

    name: str
    version: int
    memory: int

    @classmethod
    def of(cls, file: ModelFile) -> Newcomer:
        """Look at a file; if it is gone, it takes no memory."""
        return cls(file.name, file.version, memory_of(file))


class Room:
    """The room that the settings `max_models` and `max_models_bytes` leave."""

    def __init__(self, settings: Settings) -> None:
        self._models, self._bytes = settings.max_models, settings.max_models_bytes

    def lack(self, new: Resident, residents: Collection[Resident]) -> str:
        """Return why a model has no room beside the residents; empty if it has.

        A model that replaces one of them takes no other's place, but memory until then.
        """
        others = [each for each in residents if not _is_same(each, new)]
        if self._models and len(others) + 1 > self._models:
            return f"{len(others)} models are loaded, and max_models is {self._models}"
        taken = sum(each.memory for each in residents)
        if self._bytes and taken + new.memory > self._bytes:
            return (
                f"it may take {new.memory} bytes beside {taken} of others, and max_models_bytes "
                f"is {self._bytes}"
            )
        return ""

    def make(self, new: Resident, loaded: Sequence[ServedModel]) -> list[ServedModel]:
        """Return the models to evict before another is loaded, least recently used first.

        Raises `NoRoomError` if there is no room even without all that may be evicted.
        """
        victims: list[ServedModel] = []
        left = list(loaded)
        candidates = [m for m in loaded if not (m.options.pinned or m.held or _is_same(m, new))]
        candidates.sort(key=lambda model: model.last_used, reverse=True)
        while lack := self.lack(new, left):
            if not candidates:
                raise NoRoomError(
                    f"there is no room for model {new.name} version {new.version}: {lack}, and no "
                    "other model may be evicted"
                )
            victims.append(candidates.pop())
            left.remove(victims[-1])
        return victims


def _is_same(one: Resident, other: Resident) -> bool:
    return (one.name, one.version) == (other.name, other.version)
