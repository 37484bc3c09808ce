"""Turns errors into problem details (RFC 9457)."""

from __future__ import annotations

from typing import Any

from service.errors import (
    AllImagesFailedError,
    MethodNotAllowedError,
    RequestError,
    UnauthorizedError,
)

MEDIA_TYPE = "application/problem+json"


def is_v2(path: str) -> bool:
    """Return whether a path belongs to the Open Inference Protocol."""
    return path == "/v2" or path.startswith("/v2/")


def problem(error: RequestError, request_id: str, *, v2: bool = False) -> dict[str, Any]:
    """Return the members of a problem detail; `code` is the stable name of the cause.

    For `v2` also `error`, which is all that clients of the Open Inference Protocol read.
    """
    members: dict[str, Any] = {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "detail": str(error),
        "code": error.code,
        "request_id": request_id,
    }
    if v2:
        members["error"] = str(error)
    if isinstance(error, AllImagesFailedError):
        members["results"] = error.results
    return members


def headers_of(error: RequestError) -> dict[str, str]:
    """Return the additional headers of an error's answer."""
    if isinstance(error, MethodNotAllowedError):
        return {"allow": error.allowed}
    if isinstance(error, UnauthorizedError):
        return {"www-authenticate": 'Bearer realm="resnet-serve"'}  # RFC 9110, section 11.6.1
    return {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
