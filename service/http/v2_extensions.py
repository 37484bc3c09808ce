"""Triton's extensions of the protocol: model repository, tracing, logging and shared memory.

What this service does not have is refused in a form that its clients understand.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from service.errors import MalformedJsonError, NotSupportedError, SharedMemoryError
from service.http.exchange import Exchange
from service.http.upload import read_small_body
from service.http.v2_names import named_model
from service.kserve import describe

_MOST_BYTES = 64 * 1024


class IndexRequest(BaseModel):
    """The body of a request for the repository's index."""

    model_config = ConfigDict(strict=True)
    ready: bool = False


async def index(exchange: Exchange) -> None:
    """List the models with their states, or only the ready ones."""
    body = await _small_body(exchange)
    try:
        asked = IndexRequest.model_validate(body)
    except ValidationError as error:
        raise MalformedJsonError("ready must be true or false") from error
    entries = await exchange.runtime.control.index(ready_only=asked.ready)
    await exchange.respond_json(describe.repository_index(entries))


async def load_model(exchange: Exchange) -> None:
    """Serve a model's newest files, as `POST /v1/models/NAME/load` does."""
    name, parameters = await _change_asked(exchange)
    await exchange.runtime.control.load(name, parameters)
    await exchange.respond_json({})


async def unload_model(exchange: Exchange) -> None:
    """Stop serving a model, as `POST /v1/models/NAME/unload` does."""
    name, parameters = await _change_asked(exchange)
    await exchange.runtime.control.unload(name, parameters)
    await exchange.respond_json({})


async def _change_asked(exchange: Exchange) -> tuple[str, dict[str, Any]]:
    """Return the model to change and the parameters of the body."""
    exchange.record.model = name = exchange.path_parameters["name"]
    parameters = (await _small_body(exchange)).get("parameters", {})
    if not isinstance(parameters, dict):
        raise MalformedJsonError("parameters must be an object")
    return name, parameters


async def trace_settings(exchange: Exchange) -> None:
    """Return the trace settings: there are none."""
    if "name" in exchange.path_parameters:
        named_model(exchange)
    await exchange.respond_json({})


async def change_trace_settings(exchange: Exchange) -> None:
    """Refuse trace settings."""
    if "name" in exchange.path_parameters:
        named_model(exchange)
    if await _small_body(exchange):
        raise NotSupportedError(describe.NO_TRACING)
    await exchange.respond_json({})


async def log_settings(_: Exchange) -> None:
    """Refuse log settings, which are chosen when the service starts."""
    raise NotSupportedError(describe.NO_LOGGING)


async def shared_memory_status(exchange: Exchange) -> None:
    """List the regions of shared memory: there are none."""
    await exchange.respond_json([])


async def unregister_shared_memory(exchange: Exchange) -> None:
    """Forget a region, or all; there are none."""
    await _small_body(exchange)
    await exchange.respond_json({})


async def register_shared_memory(_: Exchange) -> None:
    """Refuse a region of shared memory."""
    raise SharedMemoryError(describe.NO_SHARED_MEMORY)


async def _small_body(exchange: Exchange) -> dict[str, Any]:
    """Return a body's JSON object; without a body, an empty one. Raises `MalformedJsonError`."""
    body = await read_small_body(exchange, _MOST_BYTES)
    try:
        parsed = from_json(body) if body else {}
    except ValueError as error:
        raise MalformedJsonError(f"the body is not valid JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise MalformedJsonError("the body must be a JSON object")
    return parsed
