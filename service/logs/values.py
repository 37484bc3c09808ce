"""Bounds the values of log lines: plain types and limited length, whatever a client sends."""

from __future__ import annotations

from collections.abc import MutableMapping
from itertools import islice
from typing import Any

LONGEST = 500
"""Characters kept of a value: enough for any genuine path, id or message."""

LONGEST_TRACEBACK = 16_000

_DEEPEST, _MOST_ENTRIES = 6, 100


def cut_values(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make all values short and serialisable; a structlog processor."""
    for key, value in event.items():
        if type(value) is str and len(value) <= LONGEST and value.isascii():
            continue  # most of them
        event[key] = _cut_traceback(value) if key == "exception" else _plain(value, _DEEPEST)
    return event


def _plain(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict) and depth:
        pairs = islice(value.items(), _MOST_ENTRIES)
        return {_plain(str(key), 0): _plain(each, depth - 1) for key, each in pairs}
    if isinstance(value, list | tuple | set | frozenset) and depth:
        kept = [_plain(each, depth - 1) for each in islice(value, _MOST_ENTRIES)]
        return kept if len(kept) == len(value) else [*kept, f"... ({len(value)} entries)"]
    if isinstance(value, bytes | bytearray | memoryview):
        start = bytes(value[:LONGEST]).decode("utf-8", "backslashreplace")
        return start if len(value) <= LONGEST else f"{start}... ({len(value)} bytes)"
    return _cut(_encodable(value if isinstance(value, str) else str(value)))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({len(text)} characters)"


def _cut_traceback(text: str) -> str:
    """Keep both ends of a traceback: where it began, and what the error was."""
    if len(text) > LONGEST_TRACEBACK:
        half = LONGEST_TRACEBACK // 2
        left_out = len(text) - 2 * half
        text = f"{text[:half]}\n... ({left_out} characters left out)\n{text[-half:]}"
    return _encodable(text)


def _encodable(text: str) -> str:
    """Escape lone surrogates, which come from file names that are not UTF-8."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
