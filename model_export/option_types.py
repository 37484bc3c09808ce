"""Values of command-line options, read from text.

Each raises `argparse.ArgumentTypeError`, or `ValueError` for what is no number at all.
"""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """Read: a whole number of 1 or more."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is no whole number of 1 or more")
    return int(text)


def fraction(text: str) -> float:
    """Read: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def above_zero(text: str) -> float:
    """Read: a number above 0."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def share(text: str) -> float:
    """Read: a number between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def share_or_none(text: str) -> float:
    """Read: a number from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to below 1")
    return value


def not_below_zero(text: str) -> float:
    """Read: a number of 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def count(text: str) -> int:
    """Read: a whole number of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no whole number of 0 or more")
    return int(text)


def seed(text: str) -> int:
    """Read: a whole number of 0 or more, in 32 bits."""
    value = count(text)
    if value >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} has more than 32 bits")
    return value


def sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Read: sides of images, each with its number of epochs."""
    pairs = [part.split(":") for part in text.split(",")]
    if not all(len(pair) == 2 for pair in pairs):
        raise argparse.ArgumentTypeError(f"{text} is not PIXELS:EPOCHS,...")
    return tuple((positive(side), positive(epochs)) for side, epochs in pairs)


def text(text: str) -> str:
    """Read: a text that is not empty."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty")
    return text.strip()
