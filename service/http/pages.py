"""The routes of FastAPI: pages that describe the API or show it, with problem details as errors."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.errors import MethodNotAllowedError, RequestError, RouteNotFoundError
from service.http.exchange import exchange_of
from service.http.json_body import json_body
from service.http.openapi import document
from service.http.page import page_routes
from service.http.problems import MEDIA_TYPE, headers_of, is_v2, problem
from service.inference.runtime import Runtime
from service.models.model_set import ModelSet
from service.tracebacks import internal_error


def add_pages(app: FastAPI, runtime: Runtime) -> None:
    """Make FastAPI's pages show the table of routes and answer errors with problem details."""
    described: ModelSet | None = None

    def openapi() -> dict[str, Any]:
        nonlocal described
        models = runtime.repository.models
        if app.openapi_schema is None or described is not models:
            app.openapi_schema = document(
                runtime, app.title, app.version, app.summary or "", runtime.settings.root_path
            )
            described = models
        return app.openapi_schema

    async def answer(_: Request) -> Response:
        found = await asyncio.to_thread(app.openapi)  # slow, if the models have changed
        return Response(json_body(found), media_type="application/json")

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation says
    # Before FastAPI's own route of the same path, whose answer has no final newline.
    route = APIRoute(str(app.openapi_url), answer, methods=["GET", "HEAD"], include_in_schema=False)
    app.router.routes.insert(0, route)
    if runtime.settings.page:
        app.router.routes.extend(page_routes(runtime.settings.root_path))
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_defect)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """Turn Starlette's errors for unknown routes and methods into ours."""
    assert isinstance(error, HTTPException)  # noqa: S101 - the handler's registration
    path = exchange_of(request.scope).path
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        return _response(
            request,
            MethodNotAllowedError(
                f"{path} does not allow {request.method}; allowed: {allowed}", allowed
            ),
        )
    missing = RouteNotFoundError(f"there is no {path}; /docs describes the API")
    return _response(request, missing)


async def _on_defect(request: Request, _: Exception) -> Response:
    """Answer a bug; Starlette raises the error again afterwards, and the middleware logs it."""
    return _response(request, internal_error(exchange_of(request.scope).record.request_id))


def _response(request: Request, error: RequestError) -> Response:
    exchange = exchange_of(request.scope)
    exchange.record.code = error.code
    return Response(
        json_body(problem(error, exchange.record.request_id, v2=is_v2(exchange.path))),
        error.status,
        headers_of(error),
        media_type=MEDIA_TYPE,
    )
