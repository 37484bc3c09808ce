"""What a server reports about itself and its model; other kinds of servers report little."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, NamedTuple
from urllib.parse import quote

from pydantic import BaseModel, Field, ValidationError

from service.bench.options import BenchOptions
from service.bench.target import Target
from service.bench.wire import SerialClient

_TIMEOUT_S = 10.0
_DEEPEST = 16  # nesting levels kept of a server's description


class ModelFacts(BaseModel):
    """Facts about the requested model; None if unknown."""

    classes: Annotated[int, Field(ge=1)] | None = None
    tolerance: Annotated[float, Field(ge=0, lt=1)] | None = None
    """How far a probability may be off on the server's device."""
    multi_label: dict[str, Any] | None = None

    @property
    def independent(self) -> bool:
        """Return whether an image has any number of labels, of independent probabilities."""
        return self.multi_label is not None


class _Parallelism(BaseModel):
    runners: int
    intra_op_threads: int
    goal: str
    source: str


class _Queue(BaseModel):
    limit: int


class _ModelHealth(BaseModel):
    name: str
    version: int
    provider: str
    max_batch: int
    queue: _Queue


class ServerSettings(BaseModel):
    """A server's settings, as far as its /health shows them."""

    version: str
    parallelism: _Parallelism
    models: list[_ModelHealth]


class Described(NamedTuple):
    """A server's description; `about` goes into the report."""

    about: dict[str, Any]
    model: ModelFacts


async def describe_server(target: Target, options: BenchOptions) -> Described:
    """Ask a server what it serves, and about the model that the options select."""
    client = SerialClient(target, _TIMEOUT_S)
    try:
        listed = await _read(client, target, "/v1/models")
        health = await _read(client, target, "/health")
        name = options.model or _default_model(listed)
        detail: dict[str, Any] = {}
        if name is not None and options.path is None:  # with --path, the model is unknown
            detail = await _read(client, target, f"/v1/models/{quote(name, '', errors='replace')}")
    finally:
        await client.close()
    about = {**listed, "url": f"http://{target.authority}", "settings": _settings(health)}
    return Described(about, _facts(detail))


async def _read(client: SerialClient, target: Target, path: str) -> dict[str, Any]:
    answer = await client.exchange(target.get(path))
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError):
        return {}
    return _plain(found, _DEEPEST) if isinstance(found, dict) else {}


def _plain(value: Any, depth: int) -> Any:
    """Return a value that every report can hold.

    NaN, infinity and deeply nested values become None, lone surrogates become question marks.
    """
    if isinstance(value, dict) and depth:
        return {_plain(key, 0): _plain(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list) and depth:
        return [_plain(each, depth - 1) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict | list) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value


def _default_model(listed: dict[str, Any]) -> str | None:
    models = listed.get("models")
    for model in models if isinstance(models, list) else ():
        if isinstance(model, dict) and model.get("default") is True:
            return str(model.get("name"))
    return None


def _facts(detail: dict[str, Any]) -> ModelFacts:
    try:
        return ModelFacts.model_validate(detail)
    except ValidationError:
        return ModelFacts()


def _settings(health: dict[str, Any]) -> dict[str, Any] | None:
    try:
        return ServerSettings.model_validate(health).model_dump()
    except ValidationError:  # another kind of server
        return None
