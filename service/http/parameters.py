"""Query parameters, judged by our own rules."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _digits(value: Any) -> Any:
    """Take plain digits only; pydantic alone would take `1_0` for 10 and `1.0` for 1."""
    digits = isinstance(value, str) and value.isascii() and value.isdigit()
    if isinstance(value, str) and not (digits and len(value) <= _MOST_DIGITS):
        raise ValueError(f"must be a whole number of 1 to {_MOST_DIGITS} digits")
    return value


_MOST_DIGITS = 9
WholeNumber = Annotated[
    int,
    BeforeValidator(_digits),
    Field(json_schema_extra={"minimum": 1, "maximum": 10**_MOST_DIGITS - 1}),
]
"""The type of a parameter that counts from 1; its upper end is the model's to judge."""
