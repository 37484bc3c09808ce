"""Health, probes and metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from service import __version__
from service.http.exchange import Exchange
from service.http.models import agreement_of, broken_models
from service.inference.runtime import Runtime
from service.metrics import CONTENT_TYPE
from service.models.model import ServedModel


async def health(exchange: Exchange) -> None:
    """Return state, parallelism, models, providers and queues; 503 unless the state is "ready"."""
    runtime = exchange.runtime
    state = _state(runtime)
    body = {
        "state": state,
        "version": __version__,
        "uptime_s": round(time.monotonic() - runtime.started, 3),
        "parallelism": runtime.repository.parallelism.described(),
        "devices": runtime.repository.devices(),
        "models": [_model_health(model) for model in runtime.repository],
        "broken": broken_models(runtime.repository),
        "failed_loads": [asdict(model) for model in runtime.control.failed()],
        "watch": runtime.folder_watch and {"trouble": runtime.folder_watch.trouble},
    }
    await exchange.respond_json(body, 200 if state == "ready" else 503)


async def livez(exchange: Exchange) -> None:
    """Liveness: 503 if a thread is dead or stuck or a device is lost, so a restart is needed."""
    troubles = exchange.runtime.repository.troubles()
    await _probe(exchange, [f"{name}: {trouble}" for name, trouble in troubles.items()])


async def readyz(exchange: Exchange) -> None:
    """Readiness: 503 until every model that is not broken is ready, and while stopping."""
    await _probe(exchange, exchange.runtime.unready_reasons())


async def metrics(exchange: Exchange) -> None:
    """Return all metrics in Prometheus's text format."""
    await exchange.respond(200, CONTENT_TYPE, exchange.runtime.metrics.render())


def _state(runtime: Runtime) -> str:
    if runtime.draining:
        return "draining"
    states = {model.state for model in runtime.repository.models.needed()}
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
        "provider": model.engine.provider.name,
        "computed_in": model.computed_in,
        "agreement": agreement_of(model),
        "faster_by": model.faster_by,
        "engine": dict(model.engine.attested),
        "max_batch": model.max_batch,
        "latency_ms": model.latency_ms(),
        "queue": {"images": model.gate.admitted, "limit": model.gate.limit},
    }


async def _probe(exchange: Exchange, reasons: Sequence[str]) -> None:
    body = {"ok": not reasons, "reasons": reasons}
    await exchange.respond_json(body, 503 if reasons else 200)
