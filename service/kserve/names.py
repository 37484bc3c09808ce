"""Models and versions as clients of the protocol name them."""

from __future__ import annotations

from service.errors import UnknownModelError
from service.wording import shortened

_MOST_DIGITS = 9


def version_of(text: str | None) -> int | None:
    """Return a version's number; None without one. Raises `UnknownModelError` for other texts."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise UnknownModelError(f"there is no version {shortened(text)!r}; versions are numbers")
    return int(text)
