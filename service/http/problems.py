"""Errors to problem details (RFC 9457), in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
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
from service.http.record import record_of
from service.wording import shortened, what_is_wrong

_PLACES = {"query", "path", "header"}  # where FastAPI says that a parameter is

MEDIA_TYPE = "application/problem+json"


def problem(error: RequestError, request_id: str) -> dict[str, Any]:
    """Return the members of a problem detail; `code` is the stable name of the cause."""
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
    """Return the headers that go with an error."""
    if isinstance(error, MethodNotAllowedError):
        return {"allow": error.allowed}
    return {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}


def invalid_parameters(errors: Iterable[Mapping[str, Any]]) -> InvalidParameterError:
    """Tell of parameters that did not validate; `errors` are pydantic's."""
    said: dict[str, str] = {}
    for item in errors:
        # A value that may be missing is judged twice, as a value and as none: the first counts.
        name = next(str(part) for part in item["loc"] if part not in _PLACES)
        shown = shortened(str(item["input"]))
        said.setdefault(name, f"{name}: {what_is_wrong(item)}, got {shown!r}")
    return InvalidParameterError("; ".join(said.values()))


def http_error(error: HTTPException, method: str, path: str) -> RequestError:
    """Turn Starlette's own errors into ours: no such route, no such method."""
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return MethodNotAllowedError(f"{path} does not have {method}; it has: {allowed}", allowed)
    return RouteNotFoundError(f"there is no {path}; /docs describes what there is")


def add_problem_handlers(app: FastAPI) -> None:
    """Make the errors of FastAPI's own routes problem details."""
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler's registration
    record, shown = record_of(request), http_error(error, request.method, request.url.path)
    record.code = shown.code
    return Response(
        json_body(problem(shown, record.request_id)),
        shown.status,
        headers_of(shown),
        media_type=MEDIA_TYPE,
    )
