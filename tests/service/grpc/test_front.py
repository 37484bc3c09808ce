"""The gRPC front over a real connection: Triton's clients unedited, bad input, limits and stops."""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from certificates import Authority, Pair
from color_model import write_color_model
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from images import colored
from open_inference import image_request, pixels_of
from process import client_of, reserved_port, serving
from tritonclient.utils import InferenceServerException
from waiting import wait_until

from service.app import create_app
from service.errors import SettingsError
from service.grpc import grpc_service_pb2
from service.grpc.calls import address_of
from service.settings import Settings, load_settings

messages: Any = grpc_service_pb2
PIXELS = pixels_of("green", "blue")
INFER = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture
def front(serve) -> Iterator[Callable[..., SimpleNamespace]]:
    """Return a function that starts a server; it has the client of REST and the gRPC address."""
    with reserved_port() as port:

        def start(**settings: object) -> SimpleNamespace:
            http = serve(grpc_port=port, **settings)
            return SimpleNamespace(http=http, address=f"127.0.0.1:{port}")

        yield start


@pytest.fixture
def server(front) -> SimpleNamespace:
    return front()


@pytest.fixture
def client(server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as found:
        yield found


def tensor(pixels: np.ndarray = PIXELS) -> triton.InferInput:
    found = triton.InferInput("images", list(pixels.shape), "UINT8")
    return found.set_data_from_numpy(pixels)


def image_tensor(*images: bytes) -> triton.InferInput:
    found = triton.InferInput("images", [len(images)], "BYTES")
    return found.set_data_from_numpy(np.array(images, dtype=np.object_))


def test_it_describes_the_server_and_its_models(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("color", "1")
    assert client.get_server_metadata().name == "resnet-serve"
    assert list(client.get_model_metadata("color").inputs[0].shape) == [-1, 8, 8, 3]
    config = client.get_model_config("color").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (32, [8, 8, 3])
    assert client.get_model_repository_index().models[0].state == "READY"
    assert not client.get_trace_settings().settings
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_system_shared_memory()


def test_looking_at_an_evicted_model_does_not_load_it_but_a_request_does(front, model_folder):
    write_color_model(model_folder / "a.onnx")
    server = front(default_model="color", max_models=1)
    with triton.InferenceServerClient(server.address) as client:
        for look in (client.is_model_ready, client.get_inference_statistics):
            with pytest.raises(InferenceServerException, match="is evicted"):
                look("a")
        assert client.is_model_ready("color")
        with pytest.raises(InferenceServerException, match="is being loaded again"):
            client.infer("a", [tensor()])
        wait_until(lambda: server.http.get("/v2/models").json() == {"models": ["a"]})


def test_pixels_get_their_probabilities_and_are_counted(client, server):
    result = client.infer("color", [tensor()], request_id="seven", priority=1, timeout=30_000_000)
    assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [1, 2]
    assert result.get_response().id == "seven"
    (row,) = client.get_inference_statistics("color").model_stats
    assert row.inference_count == 2
    assert row.inference_stats.success.count == 1
    assert f'method="GRPC",route="{INFER}",status="200"' in server.http.get("/metrics").text


def test_an_encoded_image_gets_the_answer_that_rest_gives(client, server):
    image = colored("blue")
    found = client.infer("color", [image_tensor(image)]).as_numpy("probabilities")
    answer = server.http.post("/v2/models/color/infer", json=image_request(image)).json()
    assert found.ravel().tolist() == answer["outputs"][0]["data"]


def test_classes_and_other_outputs_are_given_in_their_order(front, tmp_path):
    write_color_model(tmp_path / "more" / "color.onnx", extra_outputs=True)
    server = front(models=tmp_path / "more")
    wanted = [
        triton.InferRequestedOutput("embedding"),
        triton.InferRequestedOutput("probabilities", class_count=1),
    ]
    with triton.InferenceServerClient(server.address) as client:
        result = client.infer("color", [tensor()], outputs=wanted)
    assert [output.name for output in result.get_response().outputs] == [
        "embedding", "probabilities",
    ]  # fmt: skip
    assert result.as_numpy("embedding")[0].tolist() == pytest.approx([25, 210, 40])
    texts = result.as_numpy("probabilities").ravel()
    assert [text.decode().split(":")[1:] for text in texts] == [["1", "green"], ["2", "blue"]]


@pytest.mark.parametrize(
    ("code", "call"),
    [
        ("NOT_FOUND", lambda client: client.infer("nope", [tensor()])),
        ("NOT_FOUND", lambda client: client.get_model_config("color", "2")),
        ("NOT_FOUND", lambda client: client.get_model_config("color", "x")),
        ("INVALID_ARGUMENT", lambda client: client.infer("color", [image_tensor(b"none")])),
        ("INVALID_ARGUMENT", lambda client: client.infer("color", [tensor()], sequence_id=3)),
        ("INVALID_ARGUMENT", lambda client: client.infer("color", [])),
        ("INVALID_ARGUMENT", lambda client: client.register_system_shared_memory("r", "/k", 8)),
        ("PERMISSION_DENIED", lambda client: client.load_model("color")),
        ("UNIMPLEMENTED", lambda client: client.get_log_settings()),
        ("UNIMPLEMENTED", lambda client: client.update_trace_settings(settings={"a": "b"})),
    ],
)
def test_errors_have_the_protocols_status_and_say_what_is_wrong(client, code, call):
    with pytest.raises(InferenceServerException) as error:
        call(client)
    assert error.value.status() == f"StatusCode.{code}"
    assert error.value.message()


def good_message() -> Any:
    message = messages.ModelInferRequest(model_name="color")
    message.inputs.add(name="images", datatype="UINT8", shape=[1, 8, 8, 3])
    message.raw_input_contents.append(bytes(192))
    return message


def typed(elements: list[int], field: str = "uint_contents") -> Any:
    message = good_message()
    del message.raw_input_contents[:]
    getattr(message.inputs[0].contents, field).extend(elements)
    return message


def changed(change: Callable[[Any], object]) -> Any:
    message = good_message()
    change(message)
    return message


def infer(address: str, data: bytes, timeout: float = 60) -> Any:
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(INFER)
        return messages.ModelInferResponse.FromString(call(data, timeout=timeout))


def test_models_are_loaded_and_unloaded_by_who_may(front):
    server = front(admin=True)
    with triton.InferenceServerClient(server.address) as client:
        client.unload_model("color")
        with pytest.raises(InferenceServerException, match="no model of that name"):
            client.infer("color", [tensor()])
        assert client.get_model_repository_index().models[0].state == "UNAVAILABLE"
        client.load_model("color")
        assert client.infer("color", [tensor()]).as_numpy("probabilities").shape == (2, 3)
        with pytest.raises(InferenceServerException) as error:
            client.load_model("color", config="{}")
        assert error.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_typed_contents_are_read_too(server):
    response = infer(server.address, typed([20, 200, 30] * 64).SerializeToString())
    assert np.frombuffer(response.raw_output_contents[0], "<f4").argmax() == 1


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (changed(lambda m: m.inputs[0].shape.append(1)), "UINT8 [N, 8, 8, 3]"),
        (changed(lambda m: m.inputs[0].shape.__setitem__(0, -1)), "negative"),
        (changed(lambda m: m.inputs[0].shape.__setitem__(0, 0)), "no image"),
        (changed(lambda m: m.raw_input_contents.append(b"x")), "2 tensors for 1 inputs"),
        (changed(lambda m: m.raw_input_contents.__setitem__(0, b"x")), "needs 192"),
        (changed(lambda m: m.inputs[0].contents.uint_contents.append(1)), "beside raw"),
        (changed(lambda m: m.inputs[0].parameters["shared_memory_region"]), ""),
        (changed(lambda m: m.outputs.add(name="nope")), "its file has: probabilities"),
        (changed(lambda m: [m.inputs.add() for _ in range(20)]), "16 inputs"),
        (typed([0] * 191), "has 191 elements"),
        (typed([256] * 192), "from 0 to 255"),
        (typed([1] * 192, "int_contents"), "uint_contents"),
    ],
)
def test_a_bad_request_is_refused_with_what_is_wrong(server, message, words):
    if not words:
        message.inputs[0].parameters["shared_memory_region"].string_param = "r"
        words = "shared memory"
    with pytest.raises(grpc.RpcError) as error:
        infer(server.address, message.SerializeToString())
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in error.value.details()
    assert dict(error.value.trailing_metadata())["x-error-code"]


def test_bytes_that_are_no_message_are_refused(server):
    with pytest.raises(grpc.RpcError) as error:
        infer(server.address, b"\xff\xff\xff")
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_message_larger_than_a_body_may_be_is_refused(front):
    server = front(max_body_bytes=1000)
    with pytest.raises(grpc.RpcError) as error:
        infer(server.address, bytes(100_000))
    assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_messages_count_among_the_bytes_in_flight(server):
    """And are given back, also after an error."""
    gate = server.http.app.state.runtime.body_bytes
    infer(server.address, good_message().SerializeToString())
    assert gate.held == 0
    gate.limit = 100
    with pytest.raises(grpc.RpcError) as error:
        infer(server.address, good_message().SerializeToString())
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(error.value.trailing_metadata())["retry-after"] == "1"
    assert gate.held == 0


def test_the_timeout_parameter_is_the_deadline(server):
    message = good_message()
    message.parameters["timeout"].int64_param = 1
    with pytest.raises(grpc.RpcError) as error:
        infer(server.address, message.SerializeToString())
    assert error.value.code() in {
        grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE,
    }  # fmt: skip


def test_a_stream_answers_each_request_and_an_error_ends_only_its_own(client):
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    for number, given in enumerate((tensor(), image_tensor(b"none"), image_tensor(colored("red")))):
        client.async_stream_infer(
            "color", [given], request_id=str(number), enable_empty_final_response=True
        )
    first, second, third = (answers.get(timeout=60) for _ in range(3))
    client.stop_stream()
    assert first[0].get_response().id == "0"
    assert first[0].get_response().parameters["triton_final_response"].bool_param
    assert "not in an accepted image format" in second[1].message()
    assert third[0].as_numpy("probabilities").argmax() == 0


def test_open_streams_and_watchers_of_health_do_not_delay_the_end(model_folder):
    """A stream in which nothing is being answered ends with a status that says why.

    So does a call whose message has not come.
    """
    with (
        reserved_port() as port,
        serving("--models", model_folder, "--grpc-port", port) as program,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        requests: queue.Queue[bytes] = queue.Queue()
        stream = channel.stream_stream(INFER.replace("ModelInfer", "ModelStreamInfer"))
        answers = stream(iter(requests.get, b""), timeout=60)
        requests.put(good_message().SerializeToString())
        assert next(answers)
        unsent = channel.stream_unary(INFER).future(iter(requests.get, b""), timeout=60)
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        program.signal()
        with pytest.raises(grpc.RpcError) as error:
            next(answers)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "stopping" in error.value.details()
        assert unsent.exception(timeout=60).code() is grpc.StatusCode.UNAVAILABLE
        requests.put(b"")
        requests.put(b"")
        assert program.exit_status() == 0
        assert program.events[-1] | {"unanswered": 0} == program.events[-1]


def test_the_asynchronous_client_does_the_same(server):
    async def main() -> None:
        async with triton_aio.InferenceServerClient(server.address) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(*[client.infer("color", [tensor()]) for _ in range(8)])
            for result in results:
                assert result.as_numpy("probabilities").argmax(axis=1).tolist() == [1, 2]

    asyncio.run(main())


def test_health_and_reflection_are_served(server):
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "inference.GRPCInferenceService"):
            # It is updated every second; a watch tells when.
            told = health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=60)
            while next(told).status != health_pb2.HealthCheckResponse.SERVING:
                pass
            answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        server.http.app.state.runtime.draining = True
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            iter([asked]), timeout=60
        )
        names = {service.name for service in answer.list_services_response.service}
        assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names


def test_a_port_that_is_in_use_stops_the_start(server, model_folder):
    port = int(server.address.rpartition(":")[2])
    with pytest.raises(SettingsError, match="--grpc-port"):
        create_app(Settings(models=model_folder, grpc_port=port, runners=1, intra_op_threads=1))


def test_grpc_needs_a_port_of_its_own():
    with pytest.raises(SettingsError, match="grpc_port is a port of HTTP"):
        load_settings({"port": "8000", "grpc_port": "8000"}, {})


def test_without_the_extra_the_start_is_stopped_with_how_to_get_it(monkeypatch, model_folder):
    for name in [name for name in sys.modules if name.startswith("service.grpc")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(SettingsError, match=r"grpc is not installed; .*\[grpc\]"):
        create_app(Settings(models=model_folder, grpc_port=1))


def metric(http: Any, name: str) -> float:
    lines = http.get("/metrics").text.splitlines()
    return float(next((line.split()[-1] for line in lines if line.startswith(name)), "0"))


def test_a_call_whose_client_leaves_is_dropped(front):
    """While it waits for more images to fill its batch."""
    server = front(max_delay_ms=10_000)
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(INFER).future(good_message().SerializeToString())
        while not metric(server.http, "resnet_serve_queue_length"):
            pass
        call.cancel()
        cancelled = 'resnet_serve_images_total{model="color",outcome="cancelled"'
        while not metric(server.http, cancelled):
            pass
    assert metric(server.http, "resnet_serve_queue_length") == 0
    assert server.http.app.state.runtime.body_bytes.held == 0


def test_a_call_that_was_accepted_is_answered_before_the_end(model_folder):
    """The program, told to stop while a call waits for its batch; new calls are refused."""
    flags = ["--models", model_folder, "--max-delay-ms", 3000]
    with (
        reserved_port() as port,
        serving(*flags, "--grpc-port", port) as program,
        client_of(program) as http,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = channel.unary_unary(INFER).future(good_message().SerializeToString())
        while not metric(http, "resnet_serve_queue_length"):
            pass
        program.signal()
        answer = messages.ModelInferResponse.FromString(call.result(timeout=60))
        assert answer.model_name == "color"
        assert program.exit_status() == 0
        assert program.events[-1] | {"unanswered": 0} == program.events[-1]


# Access


def with_key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}.secret"}


def test_keys_and_their_scopes_hold_for_grpc(front):
    """As over REST; whether the service is alive needs none."""
    keys = Path(__file__).parents[2] / "helpers" / "keys.txt"
    with triton.InferenceServerClient(front(api_keys=keys).address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        for headers, code in (
            (None, "UNAUTHENTICATED"),
            ({"authorization": "Bearer classify.other"}, "UNAUTHENTICATED"),
            (with_key("metrics"), "PERMISSION_DENIED"),
        ):
            with pytest.raises(InferenceServerException) as told:
                client.infer("color", [tensor()], headers=headers)
            assert told.value.status() == f"StatusCode.{code}"
        assert client.infer("color", [tensor()], headers=with_key("classify")) is not None
        client.get_inference_statistics("color", headers=with_key("metrics"))
        with pytest.raises(InferenceServerException, match="needs a key with the scope admin"):
            client.unload_model("color", headers=with_key("classify"))


def test_a_stream_needs_a_key_too(front):
    keys = Path(__file__).parents[2] / "helpers" / "keys.txt"
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(front(api_keys=keys).address) as client:
        client.start_stream(lambda result, error: answers.put(error or result))
        with suppress(InferenceServerException):  # the stream may have been refused by now
            client.async_stream_infer("color", [tensor()])
        error = answers.get(timeout=60)
        assert "needs an API key" in str(error)


def without_message(address: str, **options: Any) -> grpc.RpcError:
    """Make a call whose message never comes; return its error."""
    never: queue.Queue[bytes] = queue.Queue()
    with grpc.insecure_channel(address) as channel:
        with pytest.raises(grpc.RpcError) as error:
            channel.stream_unary(INFER)(iter(never.get, b""), timeout=60, **options)
        never.put(b"")
    return error.value


def test_a_message_without_a_key_is_not_waited_for(front):
    """Nor held in memory, however large it is."""
    keys = Path(__file__).parents[2] / "helpers" / "keys.txt"
    assert without_message(front(api_keys=keys).address).code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_message_that_does_not_come_is_waited_for_a_limited_time(front):
    """Or such calls would take the place of all others."""
    error = without_message(front(body_timeout_s=0.2).address)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert dict(error.trailing_metadata())["x-error-code"] == "body_timeout"


def test_each_request_of_a_stream_counts_for_the_rate_of_its_key(front):
    """Or whoever opens a stream could ask without a limit."""
    keys = Path(__file__).parents[2] / "helpers" / "keys.txt"
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(front(api_keys=keys).address) as client:
        client.start_stream(
            lambda result, error: answers.put(error or result), headers=with_key("once")
        )
        for _ in range(2):
            client.async_stream_infer("color", [tensor()])
        first, second = (answers.get(timeout=60) for _ in range(2))
        assert first.as_numpy("probabilities").argmax(axis=1).tolist() == [1, 2]
        assert "once may make 0.0001 requests a second" in str(second)


def test_a_stream_ends_to_be_answered_when_its_key_is_withdrawn(front, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text((Path(__file__).parents[2] / "helpers" / "keys.txt").read_text())
    server = front(api_keys=keys)
    answers: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(server.address) as client:
        client.start_stream(
            lambda result, error: answers.put(error or result), headers=with_key("classify")
        )
        client.async_stream_infer("color", [tensor()])
        assert answers.get(timeout=60).as_numpy("probabilities") is not None
        keys.write_text("# nobody\n")
        server.http.app.state.runtime.guard.reload()
        client.async_stream_infer("color", [tensor()])
        assert "the API key is not valid here" in str(answers.get(timeout=60))


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:42516", "127.0.0.1"),
        ("ipv6:[::1]:42516", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:42516", "fe80::1%eth0"),
        ("unix:", "unix:"),
    ],
)
def test_a_clients_address_is_logged_as_over_http(peer, address):
    assert address_of(peer) == address


def test_the_log_has_the_name_of_the_key_and_the_clients_address(model_folder):
    keys = Path(__file__).parents[2] / "helpers" / "keys.txt"
    flags = ["--models", model_folder, "--api-keys", keys]
    with (
        reserved_port() as port,
        serving(*flags, "--grpc-port", port) as program,
        triton.InferenceServerClient(f"127.0.0.1:{port}") as client,
    ):
        client.infer("color", [tensor()], headers=with_key("classify"))
        line = program.wait_for("request")
        assert (line["path"], line["key"]) == (INFER, "classify")
        assert line["client"] == "127.0.0.1"


def test_calls_are_encrypted_where_http_is_and_new_ones_get_new_certificates(tmp_path):
    authority, another = Authority(tmp_path / "a"), Authority(tmp_path / "b", "another CA")
    used, client = authority.issue("server"), authority.issue("client")
    flags = [
        "--tls-cert", used.cert, "--tls-key", used.key, "--tls-client-ca", authority.cert,
    ]  # fmt: skip

    def is_live(trusted: Path | None, own: Pair | None = client) -> bool:
        """Ask on a new connection, since one that is there keeps its certificates."""
        given = {} if own is None else {"private_key": own.key, "certificate_chain": own.cert}
        given |= {} if trusted is None else {"root_certificates": trusted}
        texts = {name: str(path) for name, path in given.items()}
        with triton.InferenceServerClient(address, ssl=trusted is not None, **texts) as found:
            return found.is_server_live(client_timeout=10)

    with reserved_port() as port, serving(*flags, "--grpc-port", port) as server:
        address = f"127.0.0.1:{port}"
        assert is_live(authority.cert)
        for trusted, own in ((authority.cert, None), (None, None), (another.cert, client)):
            with pytest.raises(InferenceServerException):
                is_live(trusted, own)
        renewed = another.issue("server")
        for path, new in ((used.cert, renewed.cert), (used.key, renewed.key)):
            new.replace(path)
        server.wait_for("certificates_taken")
        assert is_live(another.cert)
