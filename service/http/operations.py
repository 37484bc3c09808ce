"""Health, probes, metrics and the list of models."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from service import __version__
from service.golden import tolerance_in_force
from service.http import examples
from service.http.exchange import Exchange
from service.http.json_body import json_body
from service.http.openapi import answers, problems
from service.http.parameters import WholeNumber
from service.http.schemas import Health, ModelDetail, Models, Probe
from service.inference.runtime import Runtime
from service.metrics import CONTENT_TYPE
from service.models.model import ServedModel
from service.models.repository import Repository

router = APIRouter()


async def options(exchange: Exchange) -> None:
    """Answer "OPTIONS *", which asks about the server as a whole (RFC 9110, section 9.3.7)."""
    headers = [(b"allow", b"GET, POST, OPTIONS")]
    await exchange.send({"type": "http.response.start", "status": 204, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": b""})


def runtime_of(request: Request) -> Runtime:
    """Return the service that a request belongs to."""
    runtime: Runtime = request.app.state.runtime
    return runtime


@router.get(
    "/health",
    response_model=Health,
    responses=answers(examples.HEALTH) | {503: {"model": Health, "description": "Not ready"}},
    operation_id="health",
    tags=["operations"],
    summary="State of the service",
)
async def health(request: Request) -> Response:
    """State, layout, models, providers and queues; 503 unless the state is "ready"."""
    runtime = runtime_of(request)
    state = _state(runtime)
    body = {
        "state": state,
        "version": __version__,
        "uptime_s": round(time.monotonic() - runtime.started, 3),
        "parallelism": runtime.repository.parallelism.described(),
        "devices": runtime.repository.devices(),
        "models": [_model_health(model) for model in runtime.repository],
        "broken": _broken(runtime.repository),
    }
    return _json(body, 200 if state == "ready" else 503)


@router.get(
    "/livez",
    response_model=Probe,
    responses=answers(examples.PROBE) | {503: {"model": Probe, "description": "Restart it"}},
    operation_id="livez",
    tags=["operations"],
    summary="Liveness",
)
async def livez(request: Request) -> Response:
    """Liveness: 503 when a thread is dead or stuck, or a device is lost: restart."""
    troubles = runtime_of(request).repository.troubles()
    return _probe([f"{name}: {trouble}" for name, trouble in troubles.items()])


@router.get(
    "/readyz",
    response_model=Probe,
    responses=answers(examples.PROBE) | {503: {"model": Probe, "description": "Not ready"}},
    operation_id="readyz",
    tags=["operations"],
    summary="Readiness",
)
async def readyz(request: Request) -> Response:
    """Readiness: 503 until every model that is not broken is ready, and once stopping."""
    runtime = runtime_of(request)
    reasons = ["draining"] if runtime.draining else []
    repository = runtime.repository
    unready = {repository.title(m): m.reason for m in repository.needed() if m.state != "ready"}
    found = repository.troubles() | unready
    return _probe([*reasons, *(f"{name}: {reason}" for name, reason in found.items())])


@router.get(
    "/metrics",
    response_class=Response,
    responses=answers(examples.METRICS, media_type="text/plain"),
    operation_id="metrics",
    tags=["operations"],
    summary="Prometheus metrics",
)
async def metrics(request: Request) -> Response:
    """All metrics, in Prometheus's text format."""
    return Response(runtime_of(request).metrics.render(), headers={"Content-Type": CONTENT_TYPE})


@router.get(
    "/v1/models",
    response_model=Models,
    responses=answers(examples.MODELS),
    operation_id="models",
    tags=["models"],
    summary="List the models",
)
async def models(request: Request) -> Response:
    """List what is served, with versions, states and accuracies, and what is broken."""
    repository = runtime_of(request).repository
    listed = [_summary(model, repository) for model in repository]
    return _json({"models": listed, "broken": _broken(repository)})


@router.get(
    "/v1/models/{name}",
    response_model=ModelDetail,
    responses=answers(examples.MODEL_DETAIL)
    | problems(s404="Unknown model", s503="The model is broken"),
    operation_id="model",
    tags=["models"],
    summary="One model",
)
async def model_detail(request: Request, name: str, version: WholeNumber | None = None) -> Response:
    """One model: its preprocessing, provenance, parity with PyTorch and classes."""
    repository = runtime_of(request).repository
    model = repository.find(name, version)
    contract = model.contract
    return _json(
        {
            **_summary(model, repository),
            "preprocessing": contract.preprocessing.model_dump(),
            "weights": contract.weights.model_dump(),
            "parity": contract.parity.model_dump(),
            "tolerance": tolerance_in_force(model.engine, contract),
            "labels": [label.model_dump() for label in contract.labels],
        }
    )


# Many monitors ask with HEAD. These routes answer, and those above are what is documented.
probes = APIRouter()
for probe in (health, livez, readyz, metrics):
    probes.add_api_route(
        f"/{probe.__name__}", probe, methods=["GET", "HEAD"], include_in_schema=False
    )


def _state(runtime: Runtime) -> str:
    if runtime.draining:
        return "draining"
    states = {model.state for model in runtime.repository.needed()}
    if "failed" in states or runtime.repository.troubles():
        return "failed"
    if "reloading" in states:
        return "reloading"
    return "starting" if "warming" in states else "ready"


def _model_health(model: ServedModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "state": model.state,
        "reason": model.trouble() or model.reason,
        "provider": model.engine.provider,
        "engine": dict(model.engine.attested),
        "max_batch": model.max_batch,
        "latency_ms": model.latency_ms(),
        "queue": {"images": model.gate.admitted, "limit": model.gate.limit},
    }


def _broken(repository: Repository) -> list[dict[str, Any]]:
    return [asdict(model) for model in repository.broken()]


def _summary(model: ServedModel, repository: Repository) -> dict[str, Any]:
    contract = model.contract
    return {
        "name": model.name,
        "version": model.version,
        "default": repository.default == model.name,
        "architecture": contract.architecture,
        "state": model.state,
        "provider": model.engine.provider,
        "precision": contract.precision,
        "classes": len(contract.labels),
        "input_size": contract.preprocessing.crop,
        "accuracy": contract.accuracy.model_dump() if contract.accuracy else None,
    }


def _probe(reasons: list[str]) -> Response:
    return _json({"ok": not reasons, "reasons": reasons}, 503 if reasons else 200)


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(json_body(body), status, media_type="application/json")
