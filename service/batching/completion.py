"""Outcomes, handed from the threads that work to whoever waits for them.

A ticket says how it is completed, so that its waiter may be a future of an event loop or a process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog


class Waiter(Protocol):
    """Who waits for an outcome."""

    def cancelled(self) -> bool:
        """Return whether nobody waits any more; asked on any thread."""


Complete = Callable[[Sequence[tuple[Any, Any]]], None]
"""Takes pairs of a waiter and its outcome, a result or an exception, on the thread that worked."""

_log = structlog.get_logger(__name__)


def complete_futures(outcomes: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    """Set results and exceptions on futures of one event loop, from any thread.

    Many at a time: to wake the loop costs more than they do. Futures that are done already, as
    after a cancellation, are passed over. Each needs an exception of its own: one for several would
    collect their tracebacks.
    """
    if not outcomes:
        return
    loop = outcomes[0][0].get_loop()
    try:
        loop.call_soon_threadsafe(_complete, outcomes)
    except RuntimeError:  # the loop is closed, and with it every waiter is gone
        _log.warning("outcomes_without_loop", exc_info=True)


def _complete(outcomes: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, outcome in outcomes:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
