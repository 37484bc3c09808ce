"""Human-readable log lines."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

import structlog

_FIRST = ("status", "total_ms", "method", "path", "client", "code")
"""The keys that come first: how a request ended, how long it took, and which one it was."""

_COUNTS = frozenset({"images", "batch_size"})
"""Keys that are also left out when they are 0."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def text_processors(*, colors: bool) -> list[structlog.typing.Processor]:
    """Return the processors that render an event as a line of text."""
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors,
        sort_keys=False,
        # A client's control characters must not reach the terminal.
        repr_native_str=True,
        # The default would print local variables, if `rich` happens to be installed.
        exception_formatter=structlog.dev.plain_traceback,
    )
    return [_arrange, _disarm, renderer]


def _arrange(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Put the most important keys first and leave out empty ones."""
    keys = [*(key for key in _FIRST if key in event), *(key for key in event if key not in _FIRST)]
    return {key: event[key] for key in keys if not _is_empty(key, event[key])}


def _is_empty(key: str, value: object) -> bool:
    return value is None or value in ("", [], {}) or (key in _COUNTS and value == 0)


def _disarm(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Escape control characters in text that the renderer prints verbatim."""
    for key in ("event", "exception"):
        if isinstance(text := event.get(key), str):
            event[key] = _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)
    if isinstance(text := event.get("event"), str):
        event["event"] = text.replace("\n", "\\n")
    return event
