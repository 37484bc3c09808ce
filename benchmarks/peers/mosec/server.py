"""mosec: a stage of processes that decode, and a stage of processes that run batches.

mosec's documentation has preprocessing and inference as stages of their own, each with as many
processes as it needs; only the second makes batches.
"""

from __future__ import annotations

import os
from typing import Any

from mosec import Server, Worker

from benchmarks.peers.work import Decoder, Model, Pixels, task


class Decode(Worker):
    """First stage: the request's body, which is the image, to pixels."""

    def __init__(self) -> None:
        super().__init__()
        self._decode = Decoder(task())

    def deserialize(self, data: bytearray) -> bytes:
        """Take the body as it is; by default it would be read as JSON."""
        return bytes(data)

    def forward(self, data: bytes) -> Pixels:
        """Decode one image."""
        return self._decode(data)


class Infer(Worker):
    """Second stage: pixels, a batch at a time, to answers, which mosec makes JSON of."""

    def __init__(self) -> None:
        super().__init__()
        self._model = Model(task(), threads=1)

    def forward(self, data: list[Pixels]) -> list[dict[str, Any]]:
        """Run a batch."""
        return self._model(data)


def main() -> None:
    """Serve until a signal comes."""
    given = task()
    # In milliseconds, as long as the load generator waits; by default what takes 3 s is an error.
    os.environ |= {
        "MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PORT": str(given.port), "MOSEC_TIMEOUT": "30000",
        "MOSEC_LOG_LEVEL": "warning",
    }  # fmt: skip
    server = Server()
    server.append_worker(Decode, num=given.cores, route="/classify")
    server.append_worker(
        Infer,
        num=given.cores,
        max_batch_size=given.max_batch,
        max_wait_time=given.max_delay_ms,
        route="/classify",
    )
    server.run()


if __name__ == "__main__":  # the workers are spawned, and import this file
    main()
