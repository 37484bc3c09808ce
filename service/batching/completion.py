"""Outcomes, handed from the threads to the event loop that waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import structlog

Outcomes = Sequence[tuple["asyncio.Future[Any]", Any]]

_log = structlog.get_logger(__name__)


class Completions:
    """Sets results and errors on futures of one event loop, from any thread.

    Many at a time: to wake the loop costs more than they do. Who is done already, as after a
    cancellation, is passed over.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def resolve(self, results: Outcomes) -> None:
        """Set each future's result."""
        self._soon(_resolve, results)

    def reject(self, errors: Outcomes) -> None:
        """Set each future's error; one error for several futures would collect tracebacks."""
        self._soon(_reject, errors)

    def _soon(self, call: Callable[[Outcomes], None], outcomes: Outcomes) -> None:
        if not outcomes:
            return
        try:
            self._loop.call_soon_threadsafe(call, outcomes)
        except RuntimeError:  # the loop is closed, and with it every waiter is gone
            _log.warning("outcomes_without_loop", exc_info=True)


def _resolve(results: Outcomes) -> None:
    for future, result in results:
        if not future.done():
            future.set_result(result)


def _reject(errors: Outcomes) -> None:
    for future, error in errors:
        if not future.done():
            future.set_exception(error)
