"""Triton's own HTTP clients, unedited, against a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from images import colored
from open_inference import pixels_of
from tritonclient.utils import InferenceServerException

PIXELS = pixels_of("green", "blue")


def tensor(*, binary: bool = True) -> triton.InferInput:
    found = triton.InferInput("images", list(PIXELS.shape), "UINT8")
    return found.set_data_from_numpy(PIXELS, binary_data=binary)


def image_tensor(image: bytes) -> triton.InferInput:
    found = triton.InferInput("images", [1], "BYTES")
    return found.set_data_from_numpy(np.array([image], dtype=np.object_))


@pytest.fixture
def address(client) -> str:
    return f"{client.base_url.host}:{client.base_url.port}"


@pytest.fixture
def of_triton(address) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as found:
        yield found


def test_it_asks_for_health_metadata_and_configuration(of_triton):
    assert of_triton.is_server_live()
    assert of_triton.is_server_ready()
    assert of_triton.is_model_ready("color", "1")
    assert not of_triton.is_model_ready("nope")
    assert of_triton.get_server_metadata()["name"] == "resnet-serve"
    assert of_triton.get_model_metadata("color")["inputs"][0]["name"] == "images"
    assert of_triton.get_model_config("color")["max_batch_size"] == 32
    assert of_triton.get_model_repository_index()[0]["state"] == "READY"
    assert of_triton.get_trace_settings() == {}
    assert of_triton.get_system_shared_memory_status() == []
    assert of_triton.get_cuda_shared_memory_status() == []
    of_triton.unregister_system_shared_memory()


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_it_sends_tensors_in_every_form(of_triton, binary_in, binary_out, compression):
    result = of_triton.infer(
        "color",
        [tensor(binary=binary_in)],
        outputs=[triton.InferRequestedOutput("probabilities", binary_data=binary_out)],
        request_id="seven",
        priority=1,
        timeout=30_000_000,
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [1, 2]
    assert result.get_response()["id"] == "seven"


@pytest.mark.parametrize("binary", [True, False])
def test_it_gets_classes(of_triton, binary):
    wanted = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=1)
    found = of_triton.infer("color", [tensor()], outputs=[wanted]).as_numpy("probabilities")
    texts = [text.decode() if isinstance(text, bytes) else text for text in found.ravel()]
    assert [text.split(":")[1:] for text in texts] == [["1", "green"], ["2", "blue"]]


def test_it_sends_encoded_images(of_triton):
    found = of_triton.infer("color", [image_tensor(colored("blue"))]).as_numpy("probabilities")
    assert found.argmax() == 2


def test_it_reads_statistics(of_triton):
    of_triton.infer("color", [tensor()])
    (row,) = of_triton.get_inference_statistics("color")["model_stats"]
    assert row["inference_count"] == 2


REFUSED: list[tuple[str, Callable[[Any], object]]] = [
    ("404", lambda client: client.infer("nope", [tensor()])),
    ("415", lambda client: client.infer("color", [image_tensor(b"no image")])),
    ("400", lambda client: client.infer("color", [tensor()], sequence_id=4, sequence_start=True)),
    ("501", lambda client: client.get_log_settings()),
    ("400", lambda client: client.register_system_shared_memory("r", "/k", 8)),
]


@pytest.mark.parametrize(("status", "call"), REFUSED)
def test_it_understands_errors(of_triton, status, call):
    with pytest.raises(InferenceServerException) as error:
        call(of_triton)
    assert error.value.status() == status
    assert error.value.message()


def test_the_asynchronous_client_does_the_same(address):
    async def main() -> None:
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_config("color"))["name"] == "color"
            assert await client.get_model_repository_index()
            results = await asyncio.gather(*[client.infer("color", [tensor()]) for _ in range(8)])
            for result in results:
                assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [1, 2]
            for status, call in REFUSED[:3]:
                with pytest.raises(InferenceServerException) as error:
                    await call(client)  # type: ignore[misc]  # of this client, calls are awaited
                assert error.value.status() == status

    asyncio.run(main())
