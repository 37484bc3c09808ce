"""The API's description: what FastAPI can't see, since bodies are read by our own code."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.api.problems import MEDIA_TYPE
from service.api.schemas import JsonImages, Problem

_REF = "#/components/schemas/{model}"
_BINARY = {"schema": {"type": "string", "format": "binary"}}

CLASSIFY_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                        }
                    },
                    "required": ["files"],
                }
            },
            "application/json": {"schema": {"$ref": _REF.format(model="JsonImages")}},
        },
    }
}
"""Every accepted form of a classify request."""

_PROBLEM_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}


def problems(**statuses: str) -> dict[int | str, dict[str, Any]]:
    """Describe error answers: `problems(s404="Unknown model")`."""
    return {
        int(status.removeprefix("s")): {"description": what, "content": _PROBLEM_CONTENT}
        for status, what in statuses.items()
    }


def describe(app: FastAPI) -> None:
    """Make the app's OpenAPI document name our bodies and problems instead of FastAPI's 422."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    _, ours = models_json_schema(
        [(JsonImages, "validation"), (Problem, "serialization")], ref_template=_REF
    )
    schemas.update(ours["$defs"])
    for path in document["paths"].values():
        for operation in path.values():
            answers = operation["responses"]
            if "application/json" in answers.get("422", {}).get("content", {}):
                del answers["422"]
                answers["400"] = {"description": "Bad parameter", "content": _PROBLEM_CONTENT}
    return document
