"""Ray Serve: replicas that decode, and run batches made by `@serve.batch`."""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.work import Decoder, Model, Pixels, task

_GIVEN = task()
_STORE_BYTES = 100 * 2**20  # for objects that are passed between tasks; nothing here is


@serve.deployment(
    num_replicas=_GIVEN.cores,
    ray_actor_options={"num_cpus": 1},
    # More than two batches: one runs, the other fills up meanwhile.
    max_ongoing_requests=4 * _GIVEN.max_batch,
)
class Classify:
    """A replica."""

    def __init__(self) -> None:
        self._decode, self._model = Decoder(_GIVEN), Model(_GIVEN, threads=1)
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer an image; Ray Serve makes JSON of what is returned."""
        return await self.infer(self._decode(await request.body()))

    @serve.batch(max_batch_size=_GIVEN.max_batch, batch_wait_timeout_s=_GIVEN.max_delay_ms / 1000)
    async def infer(self, images: list[Pixels]) -> list[dict[str, Any]]:
        """Run a batch on a thread, so that the event loop takes the next requests meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._model, images)


def main() -> None:
    """Serve until a signal comes."""
    ray.init(
        num_cpus=_GIVEN.cores,
        include_dashboard=False,
        object_store_memory=_STORE_BYTES,
        _temp_dir=str(Path.cwd()),
        log_to_driver=False,
    )
    serve.start(http_options={"host": "127.0.0.1", "port": _GIVEN.port})
    serve.run(Classify.bind(), route_prefix="/classify")
    signal.pause()


if __name__ == "__main__":
    main()
