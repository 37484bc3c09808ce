"""Encodes JSON bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json


def json_body(value: Any) -> bytes:
    """Return `value` as JSON with a final newline, so that a shell prompt starts on a new line."""
    return to_json(value) + b"\n"


def float32_numbers(values: NDArray[np.float32]) -> Any:
    """Return an array as nested lists, each number with no more digits than a float32 needs."""
    return values.astype(np.str_).astype(np.float64).tolist()
