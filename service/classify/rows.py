"""One row for each image: its labels or its error, as an object of JSON."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from service.classification import Classification, Result
from service.classify.errors import CutOffError
from service.classify.sources import Item
from service.streams import Content

Row = dict[str, Any]
Classify = Callable[[Iterable[Content]], Generator[Result]]
"""Gives the result of each image, in order."""

_UNAVAILABLE = frozenset({429, 502, 503, 504})


def rows_of(items: Iterable[Item], classify: Classify) -> Iterator[Row]:
    """Yield each item's row, in order.

    Raises `CutOffError` if an image fails for want of a server or a device: others would, too.
    """
    names: deque[str] = deque()

    def contents() -> Iterator[Content]:
        for item in items:
            names.append(item.name)
            yield item.read()

    for result in classify(contents()):
        name = names.popleft()
        if not isinstance(result, Classification) and result.status in _UNAVAILABLE:
            raise CutOffError(f"{name}: {result.detail}")
        yield row_of(name, result)


def row_of(name: str, result: Result) -> Row:
    """Return an image's row."""
    file = shown(name)
    if isinstance(result, Classification):
        labels = [
            {"id": p.id, "label": p.label, "index": p.index, "probability": p.probability}
            for p in result.labels
        ]
        return {
            "file": file, "labels": labels, "width": result.width, "height": result.height,
            "model": result.model, "version": result.version,
        }  # fmt: skip
    error = {"code": result.code, "title": result.title, "detail": result.detail}
    return {"file": file, "error": error}


def shown(name: str) -> str:
    """Return a file's name as UTF-8, which names of files need not be."""
    return name.encode("utf-8", "backslashreplace").decode()
