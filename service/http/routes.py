"""The table of routes: method, path template, handler and documentation.

A handler's docstring is its operation's description. To add a route, write its handler in its own
module and add a row here: dispatch, metric labels and `/openapi.json` are derived from it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from service.access.scopes import Scope
from service.http import examples
from service.http.accept import OCTETS, PNG
from service.http.classify import classify
from service.http.control import load, unload
from service.http.embed import embed
from service.http.exchange import Exchange
from service.http.explain import explain
from service.http.models import model, models
from service.http.monitoring import health, livez, metrics, readyz
from service.http.rollout import endrollout, rollout
from service.http.schemas import (
    Activation,
    Classification,
    ClassifyQuery,
    ControlQuery,
    Embeddings,
    ExplainQuery,
    Health,
    InferenceQuery,
    JsonImages,
    ModelDetail,
    ModelIndex,
    ModelQuery,
    Models,
    Probe,
    RequestHeaders,
    Rollout,
    RolloutQuery,
    Summary,
)
from service.http.summary import summary

Handler = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer other than a problem detail: its schema (None for text) and an example.

    `others` are the media types of the same answer in binary.
    """

    description: str
    schema: type[BaseModel] | None = None
    example: object = None
    media_type: str = "application/json"
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path template."""

    method: str
    path: str
    handler: Handler
    tag: str
    summary: str
    answers: Mapping[int, Answer]
    problems: Mapping[int, str] = field(default_factory=lambda: MappingProxyType({}))
    """Descriptions of the problem details by status."""
    query: type[BaseModel] | None = None
    headers: type[BaseModel] | None = None
    bodies: Mapping[str, Any] | None = None
    """Media types of the body, in OpenAPI's notation."""
    schemas: tuple[type[BaseModel], ...] = ()
    """Schemas that `bodies` refers to."""
    also_head: bool = False
    """Whether HEAD is answered too, which many monitors use."""
    scope: Scope | None = None
    """What an API key needs for it; an operation without one is nobody's but an admin's."""


def _form(files: Mapping[str, Any]) -> dict[str, Any]:
    """Describe a form, in which only files are accepted."""
    schema = {
        "type": "object",
        "properties": {"files": files},
        "required": ["files"],
        "additionalProperties": False,
    }
    return {"schema": schema}


_BINARY = {"schema": {"type": "string", "format": "binary", "minLength": 1}}
_FILES: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "string", "format": "binary"},
    "description": "image files; fields with other names are read too if they are files",
}


_IMAGE_BODIES: dict[str, Any] = {
    "image/*": _BINARY,
    "application/octet-stream": _BINARY,
    "multipart/form-data": _form(_FILES),
    "application/json": {
        "schema": {"$ref": "#/components/schemas/JsonImages"},
        "example": examples.JSON_IMAGES,
    },
}

_ONE_IMAGE_BODIES = _IMAGE_BODIES | {
    "multipart/form-data": _form(_FILES | {"maxItems": 1}),
    "application/json": {
        "schema": {
            "allOf": [{"$ref": "#/components/schemas/JsonImages"}],
            "properties": {"images": {"maxItems": 1}},
        },
        "example": examples.JSON_IMAGES,
    },
}

_INFERENCE_PROBLEMS = {
    400: "Bad parameter, header or body",
    404: "Unknown model",
    408: "The body took too long",
    413: "Body or image too large, or too many images",
    415: "Content-Type, encoding or image format not accepted",
    422: "An image that can't be decoded, or all images failed",
    431: "Headers too large",
    500: "Internal error; the log has its cause under the request id",
    503: "Queue full, deadline unreachable, model not ready, or stopping; see Retry-After",
    504: "The deadline passed before the answer was ready",
}

CLASSIFY = Operation(
    "POST",
    "/v1/classify",
    classify,
    tag="classification",
    summary="Classify one or several images",
    scope=Scope.CLASSIFY,
    query=ClassifyQuery,
    headers=RequestHeaders,
    bodies=_IMAGE_BODIES,
    schemas=(JsonImages,),
    answers={200: Answer("Labels of each image", Classification, examples.CLASSIFICATION)},
    problems=_INFERENCE_PROBLEMS,
)

_OF_OUTPUTS = {
    404: "Unknown model or label",
    406: "No answer of a type that Accept allows",
    422: "The model's file lacks an output, or an image can't be decoded, or all failed",
}
EMBED = Operation(
    "POST",
    "/v1/embed",
    embed,
    tag="features",
    summary="Embed one or several images",
    scope=Scope.CLASSIFY,
    query=InferenceQuery,
    headers=RequestHeaders,
    bodies=_IMAGE_BODIES,
    schemas=(JsonImages,),
    answers={
        200: Answer("Embedding of each image", Embeddings, examples.EMBEDDINGS, others=(OCTETS,))
    },
    problems=_INFERENCE_PROBLEMS | _OF_OUTPUTS,
)
EXPLAIN = Operation(
    "POST",
    "/v1/explain",
    explain,
    tag="features",
    summary="Show where in an image the evidence for a label lies",
    scope=Scope.CLASSIFY,
    query=ExplainQuery,
    headers=RequestHeaders,
    bodies=_ONE_IMAGE_BODIES,
    schemas=(JsonImages,),
    answers={
        200: Answer("Class activation map", Activation, examples.ACTIVATION, others=(PNG, OCTETS))
    },
    problems=_INFERENCE_PROBLEMS | _OF_OUTPUTS,
)

OPERATIONS = (
    CLASSIFY,
    EMBED,
    EXPLAIN,
    Operation(
        "GET",
        "/v1/models",
        models,
        tag="models",
        summary="List the models",
        scope=Scope.CLASSIFY,
        answers={200: Answer("The models", Models, examples.MODELS)},
    ),
    Operation(
        "GET",
        "/v1/models/{name}",
        model,
        tag="models",
        summary="Show one model",
        scope=Scope.CLASSIFY,
        query=ModelQuery,
        answers={200: Answer("The model", ModelDetail, examples.MODEL_DETAIL)},
        problems={
            400: "Bad parameter",
            404: "Unknown model",
            503: "The model is broken or evicted",
        },
    ),
    Operation(
        "POST",
        "/v1/models/{name}/load",
        load,
        tag="models",
        summary="Load a model, or its changed files",
        scope=Scope.ADMIN,
        query=ControlQuery,
        answers={200: Answer("The model's versions", ModelIndex, examples.MODEL_INDEX)},
        problems={
            400: "Bad parameter",
            403: "Not allowed without the scope admin",
            404: "No such file",
            422: "A file that can't be served; what was served before still is",
        },
    ),
    Operation(
        "POST",
        "/v1/models/{name}/unload",
        unload,
        tag="models",
        summary="Stop serving a model",
        scope=Scope.ADMIN,
        query=ControlQuery,
        answers={200: Answer("The model's versions", ModelIndex, examples.MODEL_UNLOADED)},
        problems={
            400: "Bad parameter",
            403: "Not allowed without the scope admin",
            404: "Unknown model",
        },
    ),
    Operation(
        "POST",
        "/v1/models/{name}/rollout",
        rollout,
        tag="models",
        summary="Compare a version with the one that answers",
        scope=Scope.ADMIN,
        query=RolloutQuery,
        answers={200: Answer("The rollout", Rollout, examples.ROLLOUT)},
        problems={
            400: "Bad parameter",
            403: "Not allowed without the scope admin",
            404: "Unknown model",
            409: "A rollout runs already, or there is nothing to compare",
        },
    ),
    Operation(
        "DELETE",
        "/v1/models/{name}/rollout",
        endrollout,
        tag="models",
        summary="Roll back a version that is being rolled out",
        scope=Scope.ADMIN,
        answers={200: Answer("The rollout", Rollout, examples.ROLLOUT)},
        problems={
            403: "Not allowed without the scope admin",
            404: "Unknown model",
            409: "No rollout runs",
        },
    ),
    Operation(
        "GET",
        "/health",
        health,
        tag="operations",
        summary="Show the state of the service",
        scope=Scope.METRICS,
        answers={200: Answer("Ready", Health, examples.HEALTH), 503: Answer("Not ready", Health)},
        also_head=True,
    ),
    Operation(
        "GET",
        "/livez",
        livez,
        tag="operations",
        summary="Liveness",
        scope=Scope.PUBLIC,
        answers={200: Answer("Alive", Probe, examples.PROBE), 503: Answer("Restart it", Probe)},
        also_head=True,
    ),
    Operation(
        "GET",
        "/readyz",
        readyz,
        tag="operations",
        summary="Readiness",
        scope=Scope.PUBLIC,
        answers={200: Answer("Ready", Probe, examples.PROBE), 503: Answer("Not ready", Probe)},
        also_head=True,
    ),
    Operation(
        "GET",
        "/v1/summary",
        summary,
        tag="live",
        summary="Show what the service is doing",
        scope=Scope.METRICS,
        answers={200: Answer("The last minute at most", Summary, examples.SUMMARY)},
    ),
    Operation(
        "GET",
        "/metrics",
        metrics,
        tag="operations",
        summary="Prometheus metrics",
        scope=Scope.METRICS,
        answers={200: Answer("Metrics", example=examples.METRICS, media_type="text/plain")},
        also_head=True,
    ),
)

MONITORING = tuple(each for each in OPERATIONS if each.tag == "operations")
"""What `--metrics-port` has."""

WITHOUT_MONITORING = tuple(
    each for each in OPERATIONS if each not in MONITORING or each.scope is Scope.PUBLIC
)
"""What the other port has left then: probes stay."""
