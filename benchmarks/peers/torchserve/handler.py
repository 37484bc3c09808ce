"""TorchServe's handler: decodes the images of a batch and runs it, in each worker process."""

from __future__ import annotations

from typing import Any

from benchmarks.peers.work import Decoder, Model, task


class Classifier:
    """TorchServe calls `initialize` once, and `handle` with each batch that it has made."""

    def initialize(self, context: Any) -> None:  # noqa: ARG002 - TorchServe passes it
        """Open the model."""
        given = task()
        self._decode, self._model = Decoder(given), Model(given, threads=1)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[dict[str, Any]]:  # noqa: ARG002
        """Answer a batch of requests, each with the image as its body."""
        return self._model([self._decode(bytes(row["body"])) for row in data])
