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


async def models(exchange: Exchange) -> None:
    """List the served models, with versions, states and accuracies, and the broken ones."""
    repository = exchange.runtime.repository
    listed = [_summary(model, repository) for model in repository]
    await exchange.respond_json({"models": listed, "broken": broken_models(repository)})


async def model(exchange: Exchange) -> None:
    """Return one model: its preprocessing, provenance, parity with PyTorch and classes."""
    repository = exchange.runtime.repository
    query = read_query(exchange.query_string, ModelQuery)
    found = repository.find(exchange.path_parameters["name"], query.version)
    contract = found.contract
    await exchange.respond_json(
        {
            **_summary(found, repository),
            "preprocessing": contract.preprocessing.model_dump(),
            "multi_label": contract.multi_label.model_dump() if contract.multi_label else None,
            "calibration": found.calibration and found.calibration.facts(),
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
        "architecture": contract.architecture,
        "state": model.state,
        "provider": model.engine.provider.name,
        "precision": contract.precision,
        "computed_in": model.computed_in,
        "agreement": agreement_of(model),
        "classes": len(contract.labels),
        "input_size": contract.preprocessing.crop,
        "accuracy": contract.accuracy.model_dump() if contract.accuracy else None,
    }
