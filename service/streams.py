"""Many images in pieces: grouped for requests, a bounded number in flight, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from service.classification import ImageError

Content = bytes | ImageError
"""An encoded image, or why there is none."""

T = TypeVar("T")


def groups_of(
    contents: Iterable[Content], most_images: int, most_bytes: int
) -> Iterator[list[Content]]:
    """Yield neighbours in groups of at most that many images and bytes.

    An image that is too large for a group is in one of its own.
    """
    group: list[Content] = []
    size = 0
    for content in contents:
        length = len(content) if isinstance(content, bytes) else 0
        if group and (len(group) >= most_images or size + length > most_bytes):
            yield group
            group, size = [], 0
        group.append(content)
        size += length
    if group:
        yield group


def in_order(
    groups: Iterable[Sequence[Content]],
    start: Callable[[Sequence[Content]], Future[list[T]]],
    most_groups: int,
    most_bytes: int,
) -> Generator[T]:
    """Yield each group's results, in order, while further groups are under way.

    At most `most_groups` are, with at most `most_bytes` of images together, unless one alone has
    more. If the caller stops, or a group fails, those under way are cancelled.
    """
    under_way: deque[tuple[Future[list[T]], int]] = deque()
    held = 0
    try:
        for group in groups:
            size = sum(len(content) for content in group if isinstance(content, bytes))
            while under_way and (
                under_way[0][0].done() or len(under_way) >= most_groups or held + size > most_bytes
            ):
                yield from under_way[0][0].result()
                held -= under_way.popleft()[1]
            under_way.append((start(group), size))
            held += size
        while under_way:
            yield from under_way[0][0].result()
            under_way.popleft()
    finally:
        for future, _ in under_way:
            future.cancel()
