"""The API key that a client sends."""

from __future__ import annotations

import re
from pathlib import Path

_MOST_CHARACTERS = 500
_KEY = re.compile(rf"[!-~]{{1,{_MOST_CHARACTERS}}}")  # visible ASCII


def checked_key(key: str) -> str:
    """Return a key that a header can carry. Raises `ValueError`, which does not show it."""
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"an API key is one word of 1 to {_MOST_CHARACTERS} visible ASCII characters"
        )
    return key


def key_in(path: Path) -> str:
    """Return the key in a file that has nothing else. Raises `ValueError`."""
    try:
        with path.open("rb") as file:
            content = file.read(2 * _MOST_CHARACTERS)
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror or error}") from error
    return checked_key(content.decode("latin-1").strip())
