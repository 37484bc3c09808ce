"""Types of query parameters that are stricter than pydantic's."""

from __future__ import annotations

import re
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


def _decimal(value: Any) -> Any:
    """Accept numbers as in JSON only; pydantic alone would read `nan`, ` .5` and `1_0.0`."""
    if isinstance(value, str) and not _DECIMAL.fullmatch(value):
        raise ValueError("must be a number from 0 to 1, such as 0.9")
    return value


_DECIMAL = re.compile(r"[01](\.[0-9]{1,40})?|[0-9](\.[0-9]{1,40})?[eE]-?[0-9]{1,3}")
UnitNumber = Annotated[float, Field(ge=0, le=1), BeforeValidator(_decimal)]
"""The type of a parameter from 0 to 1."""


def _switch(value: Any) -> Any:
    """Accept `true` and `false` only; pydantic alone would read `on`, `1` and `Yes`."""
    if isinstance(value, str) and value not in {"true", "false"}:
        raise ValueError("must be true or false")
    return value


Switch = Annotated[bool, BeforeValidator(_switch)]
"""The type of a parameter that is `true` or `false`."""
