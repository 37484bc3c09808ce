"""Values of command-line options, read from text.

Each raises `typer.BadParameter`, which the command line prints with the option's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import typer

LARGEST_SIDE = 4096  # that a contract takes
MOST_WORKERS = 256  # processes, all of which are started before the first image is read


def one_of(allowed: Iterable[str]) -> Callable[[str], str]:
    """Make a reader of one of these values."""
    values = tuple(allowed)

    def read(text: str) -> str:
        if text not in values:
            raise typer.BadParameter(f"{text} is not one of {', '.join(values)}")
        return text

    return read


def number(text: str) -> float:
    """Read: a finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{text} is not a finite number")
    return value


def count(text: str) -> int:
    """Read: a whole number of 0 or more."""
    return _whole(text, 0)


def workers(text: str) -> int:
    """Read: a number of worker processes, or 0 for none."""
    return _whole(text, 0, MOST_WORKERS)


def positive(text: str) -> int:
    """Read: a whole number of 1 or more."""
    return _whole(text, 1)


def side(text: str) -> int:
    """Read: a number of pixels that an image's side can have."""
    return _whole(text, 1, LARGEST_SIDE)


def size(text: str) -> int | tuple[int, int]:
    """Read: a square's side, or a height and a width as in 224x320."""
    if "x" not in str(text):
        return side(text)
    height, _, width = text.partition("x")
    return side(height), side(width)


def byte(text: str) -> int:
    """Read: a whole number from 0 to 255."""
    return _whole(text, 0, 255)


def seed(text: str) -> int:
    """Read: a whole number of 0 or more, in 32 bits."""
    value = count(text)
    if value >= 2**32:
        raise typer.BadParameter(f"{text} has more than 32 bits")
    return value


def fraction(text: str) -> float:
    """Read: a number from 0 to 1."""
    return _within(text, lambda value: 0 <= value <= 1, "from 0 to 1")


def share(text: str) -> float:
    """Read: a number between 0 and 1, neither of them."""
    return _within(text, lambda value: 0 < value < 1, "between 0 and 1")


def share_or_none(text: str) -> float:
    """Read: a number from 0 to below 1."""
    return _within(text, lambda value: 0 <= value < 1, "from 0 to below 1")


def crop_fraction(text: str) -> float:
    """Read: a number above 0, up to 1."""
    return _within(text, lambda value: 0 < value <= 1, "above 0 and up to 1")


def above_zero(text: str) -> float:
    """Read: a number above 0."""
    return _within(text, lambda value: value > 0, "above 0")


def not_below_zero(text: str) -> float:
    """Read: a number of 0 or more."""
    return _within(text, lambda value: value >= 0, "0 or more")


def sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Read: sides of images, each with its number of epochs."""
    pairs = [part.split(":") for part in text.split(",")]
    if not all(len(pair) == 2 for pair in pairs):
        raise typer.BadParameter(f"{text} is not PIXELS:EPOCHS,...")
    return tuple((side(pixels), positive(epochs)) for pixels, epochs in pairs)


def words(text: str) -> str:
    """Read: a text that is not empty."""
    if not text.strip():
        raise typer.BadParameter("is empty")
    return text.strip()


def _whole(text: str, least: int, most: float = math.inf) -> int:
    if str(text).isdecimal() and least <= int(text) <= most:
        return int(text)
    where = f"of {least} or more" if most == math.inf else f"from {least} to {most}"
    raise typer.BadParameter(f"{text} is not a whole number {where}")


def _within(text: str, holds: Callable[[float], bool], where: str) -> float:
    value = number(text)
    if not holds(value):
        raise typer.BadParameter(f"{text} is not {where}")
    return value
