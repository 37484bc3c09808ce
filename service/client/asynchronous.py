"""`AsyncClient`: calls that are awaited."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import httpx

from service.classification import Classification, Result
from service.client.answers import Answer
from service.client.calls import Call, Classify, GetHealth, GetModel, GetModels, Options, Sent
from service.client.results import Health, Limits, Model, ModelDetail
from service.client.transport import (
    DEFAULT_TIMEOUT_S,
    DEFAULT_URL,
    MOST_BYTES,
    MOST_IN_GROUP,
    answer_of,
    http_options,
    meaning_of,
    request_options,
)
from service.client.tries import RETRIED, Tries
from service.preprocess.inputs import encoded, encoded_each
from service.streams import groups_of

if TYPE_CHECKING:
    from service.preprocess.inputs import Image

T = TypeVar("T")


class AsyncClient:
    """Does what `Client` does, within an event loop; several tasks may share it."""

    def __init__(  # noqa: PLR0913 - given by name
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        connections: int = 8,
        tls: ssl.SSLContext | None = None,
        draw: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Connect to nothing yet; the arguments are `Client`'s."""
        self._http = httpx.AsyncClient(**http_options(url, api_key, connections, tls))
        self._timeout, self._connections = timeout, connections
        self._draw, self._clock, self._sleep = draw or random.Random(), clock, sleep  # noqa: S311
        self._limits: Limits | None = None

    async def classify(
        self,
        image: Image,
        *,
        model: str | None = None,
        version: int | None = None,
        top_k: int | None = None,
        priority: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it is told to the service too
    ) -> Classification:
        """Return the labels of one image; see `Client.classify`."""
        content = await asyncio.to_thread(encoded, image)
        call = Classify([content], Options(model, version, top_k, priority))
        (result,) = await self._ask(call, timeout)
        if isinstance(result, Classification):
            return result
        raise result

    async def classify_many(
        self,
        images: Iterable[Image],
        *,
        model: str | None = None,
        version: int | None = None,
        top_k: int | None = None,
        priority: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it is told to the service too
    ) -> AsyncGenerator[Result]:
        """Yield each image's labels or error, in order; see `Client.classify_many`.

        Images are taken and read on a thread.
        """
        options = Options(model, version, top_k, priority)
        limits = await self.limits()
        body_bytes = limits.max_body_bytes - 1024 * MOST_IN_GROUP
        most = min(limits.max_images, MOST_IN_GROUP)
        most_bytes = min(body_bytes, MOST_BYTES // self._connections)
        groups = groups_of(encoded_each(images), most, most_bytes)
        under_way: deque[asyncio.Task[list[Result]]] = deque()
        try:
            while group := await asyncio.to_thread(next, groups, None):
                while under_way and (len(under_way) >= self._connections or under_way[0].done()):
                    for result in await under_way[0]:
                        yield result
                    under_way.popleft()
                call = Classify(group, options)
                under_way.append(asyncio.create_task(self._ask_group(call, timeout)))
            while under_way:
                for result in await under_way[0]:
                    yield result
                under_way.popleft()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def models(self) -> list[Model]:
        """Return the models that can be asked."""
        models, self._limits = await self._ask(GetModels())
        return models

    async def model(self, name: str, version: int | None = None) -> ModelDetail:
        """Return one model with its classes; without a version, the highest."""
        return await self._ask(GetModel(name, version))

    async def limits(self) -> Limits:
        """Return what one request may hold; the service is asked once."""
        if self._limits is None:
            await self.models()
        return self._limits or Limits()

    async def health(self) -> Health:
        """Return the service's state, whatever it is."""
        return await self._ask(GetHealth())

    async def _ask_group(self, call: Classify, timeout: float | None) -> list[Result]:  # noqa: ASYNC109
        return call.results() if call.is_done else await self._ask(call, timeout)

    async def _ask(self, call: Call[T], timeout: float | None = None) -> T:  # noqa: ASYNC109
        tries = Tries(self._timeout if timeout is None else timeout, self._draw, self._clock)
        while True:
            try:
                return call.read(await self._send(call.sent(), tries))
            except RETRIED as error:
                wait_s = tries.wait_s(error)
                if wait_s is None:
                    return call.given_up(error)
            await self._sleep(wait_s)

    async def _send(self, sent: Sent, tries: Tries) -> Answer:
        try:
            async with asyncio.timeout(tries.left_s()):
                response = await self._http.request(**request_options(sent, tries))
        except httpx.TransportError as error:
            raise meaning_of(error, tries) from error
        except TimeoutError as error:
            raise tries.timed_out() from error
        return answer_of(response, response.content)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        """Return this client, which the end of the block closes."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Close the connections."""
        await self.close()
