"""Files damaged at random, and what a reader has to make of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return content that ends early, lacks a piece, or has other bytes in some places."""
    content = bytearray(whole)
    places = st.integers(0, len(content) - 1)
    how = draw(st.sampled_from(["cut", "gap", "bits", "bytes"]))
    if how == "cut":
        return bytes(content[: draw(places)])
    if how == "gap":
        start = draw(places)
        del content[start : start + draw(st.integers(1, 64))]
        return bytes(content)
    for place in draw(st.lists(places, min_size=1, max_size=4)):
        bit, byte = draw(st.integers(0, 7)), draw(st.integers(0, 255))
        content[place] = content[place] ^ (1 << bit) if how == "bits" else byte
    return bytes(content)


def assert_read_or_refused(
    read: Callable[[Path], object], path: Path, content: bytes, refused: type[Exception]
) -> None:
    """Read a file of that content; the only error may be one line that begins with its path."""
    path.write_bytes(content)
    told = f"{path}: is whole"
    try:
        read(path)
    except refused as error:
        told = str(error)
    assert told.startswith(f"{path}: ")
    assert told.isprintable()
