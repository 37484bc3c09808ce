"""MLServer: a model with a handler of its own for the image, behind adaptive batching.

MLServer's own protocol would carry the image as JSON, in base64. A custom handler takes the body
as it is; MLServer batches no custom handlers, but it wraps `predict`, so calling `self.predict`
from the handler goes through its adaptive batcher as a request of the protocol would.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orjson
from fastapi import Request, Response
from mlserver import MLModel
from mlserver.context import model_context
from mlserver.handlers import custom_handler
from mlserver.types import InferenceRequest, InferenceResponse, RequestInput, ResponseOutput

from benchmarks.peers.work import Decoder, Model, task


class Classifier(MLModel):
    """The model, and the handler in front of it."""

    async def load(self) -> bool:
        """Open the model."""
        given = task()
        self._shape = (-1, *given.contract.preprocessing.input_size, 3)
        self._decode = Decoder(given)
        self._model = Model(given, threads=1)
        # Both leave Python's lock while they work, so threads are enough to fill the cores.
        self._decoders = ThreadPoolExecutor(given.cores)
        self._runners = ThreadPoolExecutor(given.cores)
        return True

    @custom_handler(rest_path="/classify")
    async def classify(self, request: Request) -> Response:
        """Answer an image: decode it on a thread, have it batched, give JSON."""
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._decoders, self._decode, await request.body())
        # As bytes: MLServer's codec for arrays makes a list of all numbers.
        images = RequestInput(
            name="images", datatype="BYTES", shape=[1, 1], data=[pixels.tobytes()]
        )
        with model_context(self.settings):  # the batcher counts its queue for this model
            answer = await self.predict(InferenceRequest(inputs=[images]))
        return Response(answer.outputs[0].data.root[0], media_type="application/json")

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Run a batch, which is one request with the merged inputs of several."""
        joined = b"".join(payload.inputs[0].data.root)
        pixels = np.frombuffer(joined, np.uint8).reshape(self._shape)
        loop = asyncio.get_running_loop()
        answers = [
            orjson.dumps(answer)
            for answer in await loop.run_in_executor(self._runners, self._model, pixels)
        ]
        output = ResponseOutput(
            name="answers", datatype="BYTES", shape=[len(answers), 1], data=answers
        )
        return InferenceResponse(model_name=self.name, outputs=[output])
