"""What became of images, in short."""

from __future__ import annotations

from collections.abc import Iterable

from service.classification import Classification, Result


def best(results: Iterable[Result]) -> list[str]:
    """Return each image's most probable label, or the code of its error."""
    return [
        result.best.label if isinstance(result, Classification) else result.code
        for result in results
    ]
