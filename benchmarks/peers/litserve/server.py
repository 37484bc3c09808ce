"""LitServe: worker processes that decode and run batches, behind uvicorn processes.

LitServe decodes in the worker that runs the model; it has no stage for it. A body that is neither
JSON nor a form comes in through a FastAPI dependency, which is why annotations here are evaluated:
LitServe hands them to FastAPI as they are.
"""

from typing import Annotated, Any

import litserve
from fastapi import Depends, Request

from benchmarks.peers.work import Decoder, Model, Pixels, task


async def body_of(request: Request) -> bytes:
    """Return the request's body as it is."""
    return await request.body()


Body = Annotated[bytes, Depends(body_of)]


class Classify(litserve.LitAPI):
    """The road of a request, in LitServe's hooks."""

    def setup(self, device: str) -> None:  # noqa: ARG002 - LitServe passes it
        """Open the model, once in each worker."""
        given = task()
        self._decode, self._model = Decoder(given), Model(given, threads=1)

    def decode_request(self, request: Body) -> Pixels:
        """Decode one image."""
        return self._decode(request)

    def batch(self, inputs: list[Pixels]) -> list[Pixels]:
        """Leave the images a list; the model stacks them."""
        return list(inputs)

    def predict(self, x: list[Pixels]) -> list[dict[str, Any]]:
        """Run a batch."""
        return self._model(x)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the answers one by one."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """Leave the answer to FastAPI, which makes JSON of it."""
        return output


def main() -> None:
    """Serve until a signal comes."""
    given = task()
    api = Classify(
        max_batch_size=given.max_batch,
        batch_timeout=given.max_delay_ms / 1000,
        api_path="/classify",
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        devices=1,
        workers_per_device=given.cores,
        timeout=False,  # as long as the load generator waits
        fast_queue=True,  # answers come back over ZeroMQ, which LitServe advises for many requests
    )
    # As many uvicorn processes as workers, which is what LitServe does unless told otherwise.
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
