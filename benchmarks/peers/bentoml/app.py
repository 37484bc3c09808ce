"""BentoML: worker processes that decode, and run batches made by BentoML's adaptive batching.

A batchable API of BentoML takes a list; its documentation has a second service in front of it that
takes one image. Over that way each image is sent on over HTTP once more, which gave less than half
of the answers a second. Here the API's input and output specifications turn a body into a list of
one image, and a list of one answer into a body, so that one process does it all.

`max_latency_ms` is no waiting window: BentoML learns how long to wait for a fuller batch, and drops
what it expects to take longer than that. Here nothing is to be dropped.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import bentoml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from benchmarks.peers.work import Decoder, Model, Pixels, task

_GIVEN = task()
_LONG_MS = 60_000
_decode = Decoder(_GIVEN)


class Image(bentoml.IODescriptor):
    """A body that is one encoded image; the API gets its pixels, in a list."""

    __root_input__: ClassVar[bool] = True

    images: list[Any]

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> list[Pixels]:  # noqa: ARG003 - BentoML's name
        """Decode on a thread, which the event loop can't wait for."""
        body = await request.body()
        return [await asyncio.get_running_loop().run_in_executor(None, _decode, body)]


class Answer(bentoml.IODescriptor):
    """The only answer of a list as JSON."""

    answers: list[Any]

    @classmethod
    async def to_http_response(cls, obj: list[dict[str, Any]], serde: Any) -> Response:  # noqa: ARG003 - BentoML's name
        """Write it out."""
        return JSONResponse(obj[0])


@bentoml.service(
    workers=_GIVEN.cores,
    traffic={"timeout": _LONG_MS // 1000},
    logging={"access": {"enabled": False}},
)
class Classify:
    """One worker process's model."""

    def __init__(self) -> None:
        self._model = Model(_GIVEN, threads=1)

    @bentoml.api(
        route="/classify",
        batchable=True,
        max_batch_size=_GIVEN.max_batch,
        max_latency_ms=_LONG_MS,
        input_spec=Image,
        output_spec=Answer,
    )
    def classify(self, images: list[Any], /) -> list[Any]:
        """Run a batch."""
        return self._model(images)
