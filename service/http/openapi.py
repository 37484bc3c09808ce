"""The API's OpenAPI description, generated from the table of routes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service.access.scopes import Scope
from service.http import examples
from service.http.problems import MEDIA_TYPE
from service.http.routes import CLASSIFY, OPERATIONS, WITHOUT_MONITORING, Answer, Operation
from service.http.schemas import Problem
from service.inference.runtime import Runtime
from service.models.model import ServedModel

_REF = "#/components/schemas/{model}"
_KEY = "ApiKey"
_REFUSED = {
    401: "No API key, or one that is not valid",
    403: "The API key does not have the scope that this needs",
    429: "Too many requests with this API key; see Retry-After",
}

TAGS = [
    {"name": "classification", "description": "Images in, labels out."},
    {"name": "features", "description": "What a network computes before its labels."},
    {"name": "models", "description": "What is served."},
    {"name": "live", "description": "What the page shows."},
    {"name": "operations", "description": "Health, probes and metrics."},
]


def document(
    runtime: Runtime, title: str, version: str, summary: str, root_path: str | None = None
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document, with this service's own limits."""
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": title, "summary": summary, "version": version},
    }
    if root_path:
        described["servers"] = [{"url": root_path}]
    paths: dict[str, Any] = {}
    for operation in _served(runtime):
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    described |= {"paths": paths, "components": {"schemas": _schemas()}, "tags": TAGS}
    _state_limits(described, runtime)
    if runtime.guard is not None:
        _state_keys(described, runtime)
    return described


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": inspect.getdoc(operation.handler),
        "operationId": operation.handler.__name__,
    }
    if parameters := _parameters(operation):
        described["parameters"] = parameters
    if operation.bodies is not None:
        described["requestBody"] = {"required": True, "content": deepcopy(operation.bodies)}
    answers = {str(status): _answer(answer) for status, answer in operation.answers.items()}
    problems = {str(status): _problem(status, what) for status, what in operation.problems.items()}
    return described | {"responses": answers | problems}


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    return [
        *in_path,
        *_fields(operation.query, "query"),
        *_fields(operation.headers, "header"),
    ]


def _fields(schema: type[BaseModel] | None, where: str) -> list[dict[str, Any]]:
    """Describe a schema's fields as parameters, all of them optional."""
    if schema is None:
        return []
    described = []
    for name, field in schema.model_json_schema()["properties"].items():
        # Only the value's type: a query has no null.
        for each in field.pop("anyOf", ()):
            field.update(each if each != {"type": "null"} else {})
        field.pop("default", None)
        parameter = {"name": name, "in": where, "required": False}
        described.append(parameter | {"description": field.pop("description"), "schema": field})
    return described


def _answer(answer: Answer) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if answer.schema is not None:
        content["schema"] = {"$ref": _REF.format(model=answer.schema.__name__)}
    if answer.example is not None:
        content["example"] = answer.example
    others = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in answer.others}
    return {"description": answer.description, "content": {answer.media_type: content} | others}


def _problem(status: int, what: str) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model=Problem.__name__)}
    content = {MEDIA_TYPE: {"schema": schema, "example": examples.PROBLEMS[status]}}
    return {"description": what, "content": content}


def _schemas() -> dict[str, Any]:
    """Return the schemas of all bodies and answers."""
    given = [schema for each in OPERATIONS for schema in each.schemas]
    answered: list[type[BaseModel]] = [Problem]
    answered += [
        answer.schema for each in OPERATIONS for answer in each.answers.values() if answer.schema
    ]
    pairs: list[tuple[type[BaseModel], Literal["validation", "serialization"]]] = [
        *((schema, "validation") for schema in given),
        *((schema, "serialization") for schema in dict.fromkeys(answered)),
    ]
    _, ours = models_json_schema(pairs, ref_template=_REF)
    schemas: dict[str, Any] = ours["$defs"]
    return schemas


def _served(runtime: Runtime) -> Sequence[Operation]:
    return OPERATIONS if runtime.settings.metrics_port is None else WITHOUT_MONITORING


def _state_keys(described: dict[str, Any], runtime: Runtime) -> None:
    """Add the API keys that this service asks for to the description."""
    described["components"]["securitySchemes"] = {_KEY: {"type": "http", "scheme": "bearer"}}
    for operation in _served(runtime):
        if operation.scope is Scope.PUBLIC:
            continue
        shown = described["paths"][operation.path][operation.method.lower()]
        shown["security"] = [{_KEY: []}]
        shown["description"] += f"\n\nNeeds an API key with the scope {operation.scope}."
        shown["responses"] |= {
            str(status): _problem(status, what) for status, what in _REFUSED.items()
        }


def _state_limits(described: dict[str, Any], runtime: Runtime) -> None:
    """Add this service's own limits to the description."""
    images = described["components"]["schemas"]["JsonImages"]["properties"]["images"]
    images["maxItems"] = runtime.settings.max_images
    for operation in OPERATIONS:
        if operation.bodies is not None:
            body = described["paths"][operation.path]["post"]["requestBody"]
            form = body["content"]["multipart/form-data"]["schema"]
            form["properties"]["files"].setdefault("maxItems", runtime.settings.max_images)
    models = runtime.repository.models
    if models.evicted:
        return  # what they answer is not known
    classify = described["paths"][CLASSIFY.path]["post"]
    if models.loaded:
        (top_k,) = (each for each in classify["parameters"] if each["name"] == "top_k")
        top_k["schema"]["maximum"] = max(len(model.contract.labels) for model in models.loaded)
    unknown = _answered_by_no_model(models.loaded)
    classify["parameters"] = [p for p in classify["parameters"] if p["name"] not in unknown]


def _answered_by_no_model(models: Sequence[ServedModel]) -> frozenset[str]:
    """Return the parameters that every model here would refuse."""
    calibrations = [model.calibration for model in models if model.calibration]
    answered = {
        "threshold": any(model.contract.multi_label for model in models),
        "coverage": bool(calibrations),
        "abstain": any(each.embedding and each.embedding.outside for each in calibrations),
    }
    return frozenset(name for name, has_model in answered.items() if not has_model)
