"""Types of command-line arguments that several programs here take."""

from __future__ import annotations

import argparse
import math


def count(text: str) -> int:
    """Read a whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def positive(text: str) -> float:
    """Read a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def counts(text: str) -> list[int]:
    """Read whole numbers from 1 on, with commas between them."""
    return [count(part.strip()) for part in text.split(",")]
