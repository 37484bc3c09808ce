"""What an answer means: the error that it stands for, or its JSON."""

from __future__ import annotations

import email.utils
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from service.errors import (
    AllImagesFailedError,
    MethodNotAllowedError,
    RequestError,
    ResnetServeError,
    UnexpectedAnswerError,
)

_SHOWN = 200  # characters of an answer that is not the service's


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's status, headers (names in small letters) and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return its JSON; raises `UnexpectedAnswerError` for anything else."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise self.unexpected() from error

    @property
    def request_id(self) -> str | None:
        """Return the id under which the service's log has the request."""
        return self.headers.get("x-request-id")

    def unexpected(self) -> UnexpectedAnswerError:
        """Return an error that shows how the answer begins."""
        text = " ".join(self.body[: 4 * _SHOWN].decode("utf-8", "replace").split())
        return UnexpectedAnswerError(
            f"an answer with status {self.status} that is not this service's: {text[:_SHOWN]!r}",
            status=self.status,
            retry_after_s=retry_after_s(self.headers),
            request_id=self.request_id,
        )


def checked(answer: Answer) -> Any:
    """Return the JSON of an answer with status 200; raise the error that any other stands for."""
    members = answer.json()
    if answer.status == 200:
        return members
    if not isinstance(members, dict) or "code" not in members:
        raise answer.unexpected()
    raise problem_of(members, answer)


def problem_of(members: Mapping[str, Any], answer: Answer) -> ResnetServeError:
    """Return the error that a problem detail describes, as the service raised it."""
    code, detail = str(members.get("code")), str(members.get("detail", ""))
    kind = _kinds().get(code)
    if kind is None:
        return answer.unexpected()
    if kind is AllImagesFailedError:
        error: RequestError = AllImagesFailedError(detail, members.get("results", []))
    elif kind is MethodNotAllowedError:
        error = MethodNotAllowedError(detail, answer.headers.get("allow", ""))
    else:
        error = kind(detail, retry_after_s=retry_after_s(answer.headers))
    error.request_id = answer.request_id
    return error


def image_error_of(members: Mapping[str, Any], answer: Answer) -> RequestError:
    """Return the error of one of several images."""
    error = problem_of(members, answer)
    if not isinstance(error, RequestError):
        raise error
    return error


@cache
def _kinds() -> Mapping[str, Callable[..., RequestError]]:
    """Return the errors that have a code, by it."""

    def below(kind: type[RequestError]) -> list[type[RequestError]]:
        return [kind, *(each for child in kind.__subclasses__() for each in below(child))]

    return {kind.code: kind for kind in below(RequestError) if hasattr(kind, "code")}


def retry_after_s(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> int | None:
    """Return the seconds of a Retry-After header, which may have a date (RFC 9110, 10.2.3)."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return min(int(value[:9]), 10**6)
    try:
        then = email.utils.parsedate_to_datetime(value).timestamp()
    except ValueError:
        return None
    return max(0, math.ceil(then - now()))
