"""Frees what errors keep alive: all variables of the frames in their tracebacks, and callers'."""

from __future__ import annotations

import traceback

import structlog

from service.errors import InternalError, RequestError

_log = structlog.get_logger(__name__)

_BEGINNING = "Traceback (most recent call last)"


def forget_frames(error: BaseException, *, logged: bool = False) -> None:
    """Drop the tracebacks of an error and of its causes and contexts.

    Call it where the error is caught. Frames hold a request's body and an image's pixels, usually
    in a reference cycle (frame, future, error), so they would stay until Python's oldest generation
    is collected. A bug that is not yet `logged` keeps the text of its traceback as a note.
    """
    if not logged and not isinstance(error, RequestError):
        _keep_text(error)
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            left += [one.__cause__, one.__context__]


def internal_error(request_id: str) -> InternalError:
    """Return the error that a client gets for a bug."""
    return InternalError(f"an internal error; its id is {request_id}")


def known_error(error: Exception, request_id: str) -> RequestError:
    """Turn any exception into one that the client may see; the details go to the log."""
    if not isinstance(error, RequestError):
        _log.error("internal_error", request_id=request_id, exc_info=error)
        return internal_error(request_id)
    if error.status == 500:
        _log.error(error.code, request_id=request_id, exc_info=error.__cause__ or error)
    return error


def _keep_text(error: BaseException) -> None:
    """Add an error's traceback as a note, unless it has one from an earlier raise."""
    if not any(note.startswith(_BEGINNING) for note in getattr(error, "__notes__", ())):
        error.add_note("".join(traceback.format_exception(error)).rstrip())
