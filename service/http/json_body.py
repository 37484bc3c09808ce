"""Encodes JSON bodies."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json


def json_body(value: Any) -> bytes:
    """Return `value` as JSON with a final newline, so that a shell prompt starts on a new line."""
    return to_json(value) + b"\n"
