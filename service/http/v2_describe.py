"""GET routes of the Open Inference Protocol: health, metadata, configuration and statistics."""

from __future__ import annotations

from service.http.exchange import Exchange
from service.http.v2_names import named_model, shown_model
from service.kserve.describe import (
    model_config,
    model_metadata,
    model_statistics,
    server_metadata,
)
from service.models.state import State


async def live(exchange: Exchange) -> None:
    """Answer whether the server lives, as `/livez` does."""
    troubles = exchange.runtime.repository.troubles()
    await _state(exchange, "live", [f"{name}: {what}" for name, what in troubles.items()])


async def ready(exchange: Exchange) -> None:
    """Answer whether the server is ready, as `/readyz` does."""
    await _state(exchange, "ready", exchange.runtime.unready_reasons())


async def _state(exchange: Exchange, name: str, reasons: list[str]) -> None:
    """Answer 200, or 503 with the reasons; KServe's clients read the body, Triton's the status."""
    if reasons:
        await exchange.respond_json({name: False, "error": "; ".join(reasons)}, 503)
    else:
        await exchange.respond_json({name: True})


async def server(exchange: Exchange) -> None:
    """Return the server's name, version and extensions."""
    await exchange.respond_json(server_metadata())


async def names(exchange: Exchange) -> None:
    """List the models' names, as KServe does."""
    repository = exchange.runtime.repository
    listed = dict.fromkeys(model.name for model in repository)
    await exchange.respond_json({"models": list(listed)})


async def metadata(exchange: Exchange) -> None:
    """Return a model's versions, input and output."""
    model = named_model(exchange)
    await exchange.respond_json(model_metadata(model, exchange.runtime.repository.models))


async def model_ready(exchange: Exchange) -> None:
    """Answer whether a model is ready; 503 if it is not."""
    model = shown_model(exchange)
    answer: dict[str, object] = {"name": model.name, "ready": model.state is State.READY}
    if not answer["ready"]:
        answer["error"] = f"model {model.name} is not ready: {model.reason}"
    await exchange.respond_json(answer, 200 if answer["ready"] else 503)


async def config(exchange: Exchange) -> None:
    """Return a model's configuration in Triton's form."""
    model = named_model(exchange)
    await exchange.respond_json(model_config(model, exchange.runtime.settings.max_images))


async def statistics(exchange: Exchange) -> None:
    """Return what a model has done."""
    await exchange.respond_json({"model_stats": [model_statistics(shown_model(exchange))]})


async def all_statistics(exchange: Exchange) -> None:
    """Return what every model has done."""
    rows = [model_statistics(model) for model in exchange.runtime.repository]
    await exchange.respond_json({"model_stats": rows})
