"""Which requests a model is in use by, from when they find it until they are answered."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Use:
    """A context for each request that has found a model; its images may still be arriving.

    Use it on the event loop only.
    """

    def __init__(self) -> None:
        self._requests = 0
        self._when_unused: asyncio.Future[None] | None = None

    def __enter__(self) -> None:
        """Begin to use the model."""
        self._requests += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """End it."""
        self._requests -= 1
        waiting = self._when_unused
        if not self._requests and waiting is not None and not waiting.done():
            waiting.set_result(None)

    def __bool__(self) -> bool:
        """Return whether there is such a request."""
        return self._requests > 0

    async def ended(self) -> None:
        """Wait until no request is left; the caller must see to it that no more come."""
        if self._requests:
            self._when_unused = asyncio.get_running_loop().create_future()
            await self._when_unused
