"""JSON as bodies have it."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_json


def json_body(value: Any) -> bytes:
    """Return JSON that ends its line, so that a terminal's prompt begins a new one."""
    return to_json(value) + b"\n"
