"""GET /v1/models and GET /v1/models/{name}."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from service.golden import tolerance_in_force
from service.http.exchange import Exchange
from service.http.query import read_query
from service.http.schemas import ModelQuery
from service.models.model import ServedModel
from service.models.repository import Repository
from service.models.state import State


async def models(exchange: Exchange) -> None:
    """List the served models, with versions, states and accuracies, and the broken ones."""
    repository = exchange.runtime.repository
    listed = [_summary(model, repository) for model in repository]
    evicted = [{"name": m.name, "version": m.version} for m in repository.models.evicted]
    await exchange.respond_json(
        {
            "models": listed,
            "broken": broken_models(repository),
            "evicted": evicted,
            "rollouts": exchange.runtime.rollouts.described(),
        }
    )


async def model(exchange: Exchange) -> None:
    """Return one model: its preprocessing, provenance, parity with PyTorch and classes."""
    repository = exchange.runtime.repository
    query = read_query(exchange.query_string, ModelQuery)
    name, request_id = exchange.path_parameters["name"], exchange.record.request_id
    found = repository.look_up(name, query.version, request_id)
    contract = found.contract
    await exchange.respond_json(
        {
            **_summary(found, repository),
            "preprocessing": contract.preprocessing.model_dump(),
            "weights": contract.weights.model_dump(),
            "parity": contract.parity.model_dump(),
            "tolerance": tolerance_in_force(found.engine, contract),
            "labels": [label.model_dump() for label in contract.labels],
        }
    )


def broken_models(repository: Repository) -> list[dict[str, Any]]:
    """Return the broken models, as shown in answers."""
    return [asdict(model) for model in repository.models.broken()]


def agreement_of(model: ServedModel) -> dict[str, Any] | None:
    """Return how far answers agree with those in the file's own precision; None if it is that."""
    agreement = model.agreement
    if agreement is None:
        return None
    return {
        "images": agreement.images,
        "top1": round(agreement.top1, 4),
        "lower_bound": round(agreement.lower_bound, 4),
        "max_abs_diff": agreement.max_abs_diff,
        "tolerance": agreement.tolerance,
    }


def _summary(model: ServedModel, repository: Repository) -> dict[str, Any]:
    contract = model.contract
    return {
        "name": model.name,
        "version": model.version,
        "default": repository.models.default == model.name,
        "share": round(repository.models.share(model), 6),
        "architecture": contract.architecture,
        "state": model.state,
        "ready": model.state is State.READY,
        "provider": model.engine.provider.name,
        "precision": contract.precision,
        "computed_in": model.computed_in,
        "agreement": agreement_of(model),
        "classes": len(contract.labels),
        "input_size": contract.preprocessing.crop,
        "accuracy": contract.accuracy.model_dump() if contract.accuracy else None,
    }
