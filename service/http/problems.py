"""Errors to problem details (RFC 9457), in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.errors import (
    AllImagesFailedError,
    InvalidParameterError,
    MethodNotAllowedError,
    RequestError,
    RouteNotFoundError,
)
from service.http.json_body import json_body
from service.http.record import RequestRecord, record_of
from service.tracebacks import known_error
from service.wording import shortened, what_is_wrong

_PLACES = {"query", "path", "header"}  # where FastAPI says that a parameter is

MEDIA_TYPE = "application/problem+json"


def problem(error: RequestError, request_id: str) -> dict[str, Any]:
    """Give the members of a problem detail; `code` is the stable name of the cause."""
    members: dict[str, Any] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "code": error.code,
        "request_id": request_id,
    }
    if isinstance(error, AllImagesFailedError):
        members["results"] = error.results
    return members


def headers_of(error: RequestError) -> dict[str, str]:
    """Give the headers that go with an error."""
    return {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}


def problem_response(error: RequestError, record: RequestRecord) -> Response:
    """Answer with an error, and note it for the log and the metrics."""
    record.code = error.code
    return Response(
        json_body(problem(error, record.request_id)),
        error.status,
        headers_of(error),
        media_type=MEDIA_TYPE,
    )


def add_problem_handlers(app: FastAPI) -> None:
    """Make every error that the application raises a problem detail."""
    app.add_exception_handler(RequestError, _on_request_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_request_error(request: Request, error: Exception) -> Response:
    record = record_of(request)
    return problem_response(known_error(error, record.request_id), record)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    """FastAPI judges only the query's types; bodies are read by our own code."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - the handler's registration
    return problem_response(invalid_parameters(error.errors()), record_of(request))


def invalid_parameters(errors: Iterable[Mapping[str, Any]]) -> InvalidParameterError:
    """Tell of parameters that did not validate; `errors` are pydantic's."""
    said: dict[str, str] = {}
    for item in errors:
        # A value that may be missing is judged twice, as a value and as none: the first counts.
        name = next(str(part) for part in item["loc"] if part not in _PLACES)
        shown = shortened(str(item["input"]))
        said.setdefault(name, f"{name}: {what_is_wrong(item)}, got {shown!r}")
    return InvalidParameterError("; ".join(said.values()))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler's registration
    path, record = request.url.path, record_of(request)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        response = problem_response(
            MethodNotAllowedError(f"{path} does not have {request.method}; it has: {allowed}"),
            record,
        )
        response.headers["Allow"] = allowed
        return response
    if error.status_code == 404:
        return problem_response(
            RouteNotFoundError(f"there is no {path}; /docs describes what there is"), record
        )
    return problem_response(known_error(error, record.request_id), record)
