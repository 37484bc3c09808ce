"""The stages that the routes which run a model share: receive, parse, infer.

    async with received(exchange, model, due) as body:
        images = await parsed_images(exchange, body, parse, due)
        del body
        results = await infer(exchange, model, images, due)

A route with bodies of another kind parses them itself, and builds its own `InferenceRequest`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

from service.batching.admission import HeldBytes
from service.batching.costs import Work
from service.batching.ticket import ONLY_PROBABILITIES
from service.errors import RequestError
from service.http.bodies import BodyParser, PostedImage
from service.http.codings import coding_of, decompressed
from service.http.exchange import Exchange
from service.http.upload import read_body
from service.inference.deadline import RequestDeadline
from service.inference.request import ImageResult, InferenceRequest
from service.inference.time_limit import TimeLimit
from service.models.model import ServedModel

T = TypeVar("T")


def find_model(exchange: Exchange, name: str | None, version: int | None) -> ServedModel:
    """Return the model that a request names, and record it. Raises what `Repository.find` does."""
    record = exchange.record
    model = exchange.runtime.repository.find(name, version, record.request_id)
    record.model = model.name
    return model


@asynccontextmanager
async def received(
    exchange: Exchange,
    model: ServedModel,
    due: RequestDeadline,
    *,
    outputs: tuple[str, ...] = ONLY_PROBABILITIES,
    codings: frozenset[bytes] = frozenset(),
) -> AsyncGenerator[bytes]:
    """Yield the request's body; the block ends at the deadline, or when the client leaves.

    A body in one of the content `codings` is decompressed, within the limits for its size.

    The body's bytes stay counted until the block ends, since its images live as long. Raises
    what `Pipeline.check` does before the body is read, what `read_body` raises,
    `BodyTimeoutError`, `DeadlineExceededError` and `ClientDisconnectedError`.
    """
    runtime = exchange.runtime
    # A request that can't be answered in time is refused before its body is read.
    runtime.inference.check(model, due, outputs)
    async with TimeLimit(due, exchange.record, runtime.settings.body_timeout_s) as limit:
        with model.use, HeldBytes(runtime.body_bytes) as held:
            most = runtime.settings.max_body_bytes
            body = [await read_body(exchange, held, most, codings)]
            limit.body_is_read()
            exchange.time_limit = limit
            with exchange.cancelled_when_client_leaves():
                if coding_of(exchange.headers.get(b"content-encoding", b"")):
                    pool = runtime.decode_pool
                    body.append(await decompressed(body.pop(), held, most, pool, due))
                yield body.pop()  # the block alone holds it, and may drop it


async def parsed_images(
    exchange: Exchange, body: bytes, parse: BodyParser | None, due: RequestDeadline
) -> list[PostedImage]:
    """Return the images of a body, which is itself the image if `parse` is None.

    A body is parsed off the event loop: a large one takes a while.
    """
    if parse is None:
        return [PostedImage(body)]
    call = partial(parse, body, exchange.runtime.settings.max_images)
    return await off_the_loop(exchange, call, due, Work("form", size=len(body)))


async def infer(
    exchange: Exchange,
    model: ServedModel,
    images: Sequence[PostedImage],
    due: RequestDeadline,
    outputs: tuple[str, ...] = ONLY_PROBABILITIES,
) -> list[ImageResult | RequestError]:
    """Run a request's images, and record how many they are. Raises what `Pipeline.run` does."""
    record = exchange.record
    record.images = len(images)
    contents = [image.content for image in images]
    return await exchange.runtime.inference.run(
        InferenceRequest(model, contents, due, record.request_id, record.stages, outputs)
    )


async def off_the_loop(
    exchange: Exchange, call: Callable[[], T], due: RequestDeadline, work: Work
) -> T:
    """Return the result of a call that would block the event loop for too long."""
    pool = exchange.runtime.decode_pool
    return await pool.call(call, due.deadline, due.priority, work)
