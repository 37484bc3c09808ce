"""What the service says about itself, as plain data.

Members that this release does not know are left out, so that it works with newer services.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold. The defaults are the service's own."""

    max_images: int = 32
    max_body_bytes: int = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Model:
    """One served model."""

    name: str
    version: int
    default: bool
    architecture: str
    state: str
    provider: str
    precision: str
    classes: int
    input_size: int | tuple[int, int]
    """A square's side, or height and width."""
    accuracy: Mapping[str, Any] | None = None
    share: float = 1.0
    """Of the requests that name no version."""


@dataclass(frozen=True, slots=True)
class ModelDetail(Model):
    """One served model, with its preprocessing, provenance and classes."""

    preprocessing: Mapping[str, Any] | None = None
    weights: Mapping[str, Any] | None = None
    parity: Mapping[str, Any] | None = None
    tolerance: float | None = None
    labels: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ModelHealth:
    """One model's state."""

    name: str
    version: int
    state: str
    reason: str
    provider: str
    max_batch: int


@dataclass(frozen=True, slots=True)
class Health:
    """The service's state; it answers while that is "ready"."""

    state: str
    version: str
    uptime_s: float
    models: tuple[ModelHealth, ...]

    @property
    def is_ready(self) -> bool:
        """Return whether it takes requests."""
        return self.state == "ready"


def health_of(members: Mapping[str, Any]) -> Health:
    """Return the health in an answer of `GET /health`."""
    models = tuple(known(ModelHealth, each) for each in members["models"])
    return Health(members["state"], members["version"], members["uptime_s"], models)


def known(kind: type[T], members: Mapping[str, Any]) -> T:
    """Return a dataclass with those of the members that it has."""
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in members.items()
            if name in names
        }
    )
