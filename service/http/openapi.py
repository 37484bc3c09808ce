"""The API's description: what FastAPI can't see, since bodies are read by our own code."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.http import examples
from service.http.json_body import json_body
from service.http.problems import MEDIA_TYPE
from service.http.schemas import (
    Classification,
    ClassifyQuery,
    JsonImages,
    Problem,
    RequestHeaders,
)
from service.inference.runtime import Runtime

_REF = "#/components/schemas/{model}"
_BINARY = {"schema": {"type": "string", "format": "binary", "minLength": 1}}
_FILES: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {"type": "string", "format": "binary"},
    "description": "image files; a field of any other name is read, too, if it is a file",
}

CLASSIFY_PATH = "/v1/classify"
_CLASSIFY: dict[str, Any] = {
    "parameters": [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": schema.pop("description"),
            "schema": schema,
        }
        for name, schema in RequestHeaders.model_json_schema()["properties"].items()
    ],
    "requestBody": {
        "required": True,
        "description": "one image, a form of files, or JSON with base64",
        "content": {
            "image/*": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"files": _FILES},
                    "required": ["files"],
                    "additionalProperties": False,
                }
            },
            "application/json": {
                "schema": {"$ref": _REF.format(model="JsonImages")},
                "example": examples.JSON_IMAGES,
            },
        },
    },
}
"""The headers that a classify request may have, and every accepted form of its body."""

TAGS = [
    {"name": "classification", "description": "Images in, labels out."},
    {"name": "models", "description": "What is served."},
    {"name": "operations", "description": "Health, probes and metrics."},
]


def problems(**statuses: str) -> dict[int | str, dict[str, Any]]:
    """Describe error answers: `problems(s404="Unknown model")`."""
    return {
        int(status.removeprefix("s")): _problem(int(status.removeprefix("s")), what)
        for status, what in statuses.items()
    }


def answers(
    example: object, status: int = 200, media_type: str = "application/json"
) -> dict[int | str, dict[str, Any]]:
    """Give an answer's example; its schema is the route's."""
    return {status: {"content": {media_type: {"example": example}}}}


def _problem(status: int, what: str) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model="Problem")}
    content = {MEDIA_TYPE: {"schema": schema, "example": examples.PROBLEMS[status]}}
    return {"description": what, "content": content}


documented = APIRouter()
"""Routes that the edge handles before FastAPI sees them: only their description is used, and the
answer to another method."""


@documented.post(
    CLASSIFY_PATH,
    response_model=Classification,
    responses=answers(examples.CLASSIFICATION)
    | problems(
        s400="Bad parameter, header or body",
        s404="Unknown model",
        s408="The body took too long",
        s413="Body, image or number of images too large",
        s415="Not an accepted form of body or image format",
        s422="An image that can't be decoded, or all of several",
        s431="Headers too large",
        s500="Internal error; the log has its cause under the request id",
        s503="Queue full, deadline out of reach, model not ready or stopping; see Retry-After",
        s504="The deadline passed before the answer was there",
    ),
    openapi_extra=_CLASSIFY,
    operation_id="classify",
    tags=["classification"],
    summary="Classify one or several images",
)
def classify(query: Annotated[ClassifyQuery, Query()]) -> None:
    """Give the most probable labels of each image.

    The body is an image, a form of files, or JSON with base64. Its content decides the image
    format: JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF, and HEIC where its decoder is installed. A
    single image's error is the status of the answer; of several images, each has its labels or its
    error.
    """


def describe(app: FastAPI, root_path: str | None = None) -> None:
    """Make the app's OpenAPI document name our bodies and problems instead of FastAPI's 422."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, root_path)
        return app.openapi_schema

    async def document(_: Request) -> Response:
        return Response(json_body(app.openapi()), media_type="application/json")

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents
    # Before FastAPI's own of the same path, whose answer does not end its line.
    app.router.routes.insert(0, Route(str(app.openapi_url), document))


def _document(app: FastAPI, root_path: str | None) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        routes=app.routes,
        servers=[{"url": root_path}] if root_path else None,
        tags=TAGS,
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
            for parameter in operation.get("parameters", ()):
                _leave_out_null(parameter["schema"])
            replies = operation["responses"]
            if "application/json" in replies.get("422", {}).get("content", {}):
                del replies["422"]
                replies["400"] = _problem(400, "Bad parameter")
    _state_limits(document, app.state.runtime)
    return document


def _leave_out_null(schema: dict[str, Any]) -> None:
    """Describe an optional parameter by its value alone: there is no null in a query."""
    options = [each for each in schema.pop("anyOf", ()) if each != {"type": "null"}]
    for each in options:
        schema.update(each)


def _state_limits(document: dict[str, Any], runtime: Runtime) -> None:
    """Put this service's own limits into the description."""
    classify = document["paths"][CLASSIFY_PATH]["post"]
    images = document["components"]["schemas"]["JsonImages"]["properties"]["images"]
    form = classify["requestBody"]["content"]["multipart/form-data"]
    (top_k,) = (each for each in classify["parameters"] if each["name"] == "top_k")
    images["maxItems"] = runtime.settings.max_images
    form["schema"]["properties"]["files"]["maxItems"] = runtime.settings.max_images
    top_k["schema"]["maximum"] = max(len(model.contract.labels) for model in runtime.repository)
