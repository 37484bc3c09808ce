"""Log lines as text, for people."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

import structlog

_FIRST = ("status", "total_ms", "method", "path", "client", "code")
"""How a request ended, how long that took, and which one it was."""

_COUNTS = frozenset({"images", "batch_size"})
"""Of these, 0 says as little as nothing does."""

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def text_processors(*, colors: bool) -> list[structlog.typing.Processor]:
    """Return what makes a line of text of an event."""
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
    """Put first what is looked for first, and leave out what is empty."""
    keys = [*(key for key in _FIRST if key in event), *(key for key in event if key not in _FIRST)]
    return {key: event[key] for key in keys if not _is_empty(key, event[key])}


def _is_empty(key: str, value: object) -> bool:
    return value is None or value in ("", [], {}) or (key in _COUNTS and value == 0)


def _disarm(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Spell control characters out where the renderer prints text as it is."""
    for key in ("event", "exception"):
        if isinstance(text := event.get(key), str):
            event[key] = _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)
    if isinstance(text := event.get("event"), str):
        event["event"] = text.replace("\n", "\\n")
    return event
