"""KServe's own clients, unedited, against the real program over REST and gRPC."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from color_model import write_color_model
from open_inference import pixels_of
from process import Serving, reserved_port, serving

pytestmark = [
    pytest.mark.kserve,
    pytest.mark.filterwarnings("ignore"),  # of KServe's dependencies, at their import
]
PIXELS = pixels_of("green", "blue")


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Iterator[tuple[Serving, str]]:
    """A running program and the address of its gRPC."""
    model = write_color_model(tmp_path_factory.mktemp("models") / "color.onnx")
    with reserved_port() as port, serving("--models", model, "--grpc-port", port) as server:
        yield server, f"127.0.0.1:{port}"


@pytest.fixture
def kserve() -> Any:
    """The package, imported only where the tests that need it run."""
    return importlib.import_module("kserve")


def request_of(kserve: Any, *, binary: bool) -> Any:
    tensor = kserve.InferInput(name="images", shape=list(PIXELS.shape), datatype="UINT8")
    tensor.set_data_from_numpy(PIXELS, binary_data=binary)
    return kserve.InferRequest(model_name="color", infer_inputs=[tensor])


def labels_of(response: Any) -> list[int]:
    return response.outputs[0].as_numpy().argmax(axis=1).tolist()


@pytest.mark.parametrize("binary", [True, False])
def test_its_rest_client_infers(kserve, program, binary):
    url = program[0].url

    async def main() -> None:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "color")
        assert not await client.is_model_ready(url, "nope")
        request = request_of(kserve, binary=binary)
        assert labels_of(await client.infer(url, request, model_name="color")) == [1, 2]
        await client.close()

    asyncio.run(main())


def test_its_client_of_the_first_protocol_reads_that_a_model_is_ready(kserve, program):
    async def main() -> None:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v1"))
        assert await client.is_model_ready(program[0].url, "color")
        await client.close()

    asyncio.run(main())


def test_its_grpc_client_infers(kserve, program):
    async def main() -> None:
        client = kserve.InferenceGRPCClient(program[1])
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("color")
        assert labels_of(await client.infer(request_of(kserve, binary=True))) == [1, 2]
        await client.close()

    asyncio.run(main())
