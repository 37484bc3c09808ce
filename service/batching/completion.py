"""Hands outcomes from worker threads to their waiters.

A ticket says how it is completed, so its waiter may be an event loop's future or another process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog


class Waiter(Protocol):
    """Something that waits for an outcome."""

    def cancelled(self) -> bool:
        """Return whether the outcome is no longer wanted; called on any thread."""


Complete = Callable[[Sequence[tuple[Any, Any]]], None]
"""Takes pairs of a waiter and its outcome (a result or an exception) on the worker thread."""

_log = structlog.get_logger(__name__)


def complete_futures(outcomes: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    """Set results and exceptions on futures of one event loop, from any thread.

    Pass many at a time: waking the loop costs more than setting them. Futures that are already
    done, such as cancelled ones, are skipped. Each future needs its own exception: a shared one
    would collect all their tracebacks.
    """
    if not outcomes:
        return
    loop = outcomes[0][0].get_loop()
    try:
        loop.call_soon_threadsafe(_complete, outcomes)
    except RuntimeError:  # the loop is closed, so every waiter is gone
        _log.warning("outcomes_without_loop", exc_info=True)


def _complete(outcomes: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in outcomes:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
