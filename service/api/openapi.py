"""The API's description: what FastAPI can't see, since bodies are read by our own code."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from service.api.json_body import json_body
from service.api.problems import MEDIA_TYPE
from service.api.schemas import Classification, ClassifyQuery, JsonImages, Problem

_REF = "#/components/schemas/{model}"
_BINARY = {"schema": {"type": "string", "format": "binary"}}

CLASSIFY_PATH = "/v1/classify"
_CLASSIFY_BODY: dict[str, Any] = {
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


documented = APIRouter()
"""Routes that the edge handles before FastAPI sees them: only their description is used, and the
answer to another method."""


@documented.post(
    CLASSIFY_PATH,
    response_model=Classification,
    responses=problems(
        s400="Bad parameter or malformed body",
        s404="Unknown model",
        s408="The body took too long",
        s413="Body, image or number of images too large",
        s415="Not an accepted form of body or image format",
        s422="An image that can't be decoded, or all of several",
        s500="Internal error; the log has its cause under the request id",
        s503="Queue full, deadline out of reach, model not ready or stopping; see Retry-After",
        s504="The deadline passed before the answer was there",
    ),
    openapi_extra=_CLASSIFY_BODY,
    summary="Classify one or several images",
)
def classify(query: Annotated[ClassifyQuery, Query()]) -> None:
    """Give the most probable labels of each image.

    The body is an image, a form of files, or JSON with base64. Its content decides the image
    format: JPEG, PNG, WebP, GIF, BMP or TIFF. A single image's error is the status of the answer;
    of several images, each has its labels or its error.
    """


def describe(app: FastAPI) -> None:
    """Make the app's OpenAPI document name our bodies and problems instead of FastAPI's 422."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    async def document(_: Request) -> Response:
        return Response(json_body(app.openapi()), media_type="application/json")

    app.openapi = openapi  # type: ignore[method-assign]  # the way FastAPI documents
    # Before FastAPI's own of the same path, whose answer does not end its line.
    app.router.routes.insert(0, Route(str(app.openapi_url), document))


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
