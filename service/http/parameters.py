"""Types of query parameters that are stricter than pydantic's."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _digits(value: Any) -> Any:
    """Accept plain digits only; pydantic alone would read `1_0` as 10 and `1.0` as 1."""
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
"""The type of a parameter that counts from 1; the model determines its upper limit."""
