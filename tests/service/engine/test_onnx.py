"""The ONNX Runtime engine: right answers, readable refusals, and the provider it really has."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import onnxruntime
import pytest
from color_model import ALLOWED, color_contract, color_graph, write_color_model
from onnx import TensorProto, helper
from structlog.testing import capture_logs

from service.contract import INPUT_NAME, METADATA_KEY, PROBABILITIES
from service.engine import providers
from service.engine.base import probabilities
from service.engine.onnx import OnnxOpener, load_engine
from service.engine.providers import EngineOptions
from service.errors import ModelFileError, ProviderError, StartupError

BLACK = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def model(tmp_path):
    return write_color_model(tmp_path / "color.onnx")


def refusal(path, error: type[StartupError] = ModelFileError, **options) -> str:
    """The one line with which a model file is refused."""
    with pytest.raises(error) as caught:
        load_engine(path, **({"provider": "cpu"} | options))
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def changed(tmp_path, change):
    """A color model whose graph a function has changed."""
    graph = color_graph()
    change(graph)
    onnx.save(graph, tmp_path / "changed.onnx")
    return tmp_path / "changed.onnx"


# Answers


def test_a_file_that_leaves_its_classes_open_has_no_number_of_them(tmp_path):
    def open_classes(graph):
        graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "classes"
        graph.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "channels"

    assert load_engine(changed(tmp_path, open_classes), provider="cpu").classes is None


def test_a_wrong_batch_is_an_error_and_the_next_one_works(model):
    engine = load_engine(model, provider="cpu")
    with pytest.raises(Exception, match="input data type"):
        probabilities(engine, [np.zeros((8, 8, 3), np.float32)])
    assert probabilities(engine, [BLACK]).shape == (1, 3)


def test_threads_are_as_many_as_asked_for_or_as_there_are_cpus(model, monkeypatch):
    asked = []

    def session(path, sess_options, **options):
        asked.append(sess_options.intra_op_num_threads)
        return real(path, sess_options=sess_options, **options)

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr("service.engine.cpu.cpu_count", lambda: 2)
    load_engine(model, provider="cpu", intra_op_threads=1)
    load_engine(model, provider="cpu")
    assert asked == [1, 2]


# Files that are refused


def test_a_file_that_is_not_there_is_named(tmp_path):
    assert "nothing.onnx: no such file" in refusal(tmp_path / "nothing.onnx")


@pytest.mark.parametrize(
    "content", [b"", b"Hello, I am no model.", b"\x89PNG\r\n\x1a\n", bytes(99)]
)
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    assert str(path) in refusal(path)


@pytest.mark.parametrize("percent", [1, 30, 60, 99])
def test_a_file_that_is_cut_off_is_named(tmp_path, model, percent):
    """As an interrupted copy leaves it."""
    path = tmp_path / "short.onnx"
    data = model.read_bytes()
    path.write_bytes(data[: len(data) * percent // 100])
    assert str(path) in refusal(path)


def test_a_graph_that_the_runtime_can_not_run_is_named(tmp_path):
    path = changed(tmp_path, lambda m: setattr(m.graph.node[-1], "op_type", "Nonsense"))
    assert str(path) in refusal(path)
    assert "Nonsense" in refusal(path)


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = model.graph.node[0].input[0] = "data"


def take_floats(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def take_channels_first(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, ["batch", 3, 8, 8])
    )


def take_one_image(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info(INPUT_NAME, TensorProto.UINT8, [8, 8, 3])
    )


def take_more(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("top_k", TensorProto.INT64, [1]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rename_input, "'data'"),
        (take_floats, "tensor(float)"),
        (take_channels_first, "['batch', 3, 8, 8]"),
        (take_one_image, "[8, 8, 3]"),
        (take_more, "'top_k'"),
    ],
)
def test_a_model_of_other_inputs_is_told_what_it_takes_and_what_is_wanted(tmp_path, change, said):
    message = refusal(changed(tmp_path, change))
    assert said in message
    assert "`images` uint8 [N, H, W, 3]" in message
    assert f"`resnet-export adopt {tmp_path}/changed.onnx --output NAME.onnx`" in message
    assert "resnet-export export" in message


def test_a_model_without_probabilities_is_refused(tmp_path):
    def rename_output(model: onnx.ModelProto) -> None:
        model.graph.output[0].name = model.graph.node[-1].output[0] = "logits2"

    message = refusal(changed(tmp_path, rename_output))
    assert f"no output `{PROBABILITIES}`" in message
    assert "resnet-export adopt" in message


# Providers. The fakes stand for an NVIDIA GPU and for a machine whose CUDA libraries are missing.


class FakeSession:
    """What a session tells of itself; `real` makes the one behind it."""

    def __init__(self, providers: list[str], real) -> None:
        self._providers = providers
        self._real = real

    def get_providers(self) -> list[str]:
        return self._providers

    def __getattr__(self, name: str):
        return getattr(self._real, name)


@pytest.fixture
def fake_cuda(monkeypatch):
    """Gives a function that makes ONNX Runtime one with CUDA, which works, or not, or fails."""
    real = onnxruntime.InferenceSession
    opened = []

    def pretend(in_use: list[str] | Exception, driver_problem: str | None = None):
        def session(path, sess_options, providers, enable_fallback):
            assert enable_fallback == 0, "ONNX Runtime would retry on the CPU by itself"
            if providers == ["CPUExecutionProvider"]:
                return real(path, sess_options=sess_options, providers=providers)
            opened.append(providers)
            if isinstance(in_use, Exception):
                raise in_use
            return FakeSession(
                in_use, real(path, sess_options=sess_options, providers=["CPUExecutionProvider"])
            )

        monkeypatch.setattr(
            onnxruntime,
            "get_available_providers",
            lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        )
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda **_: None)
        monkeypatch.setattr("service.engine.providers.driver_problem", lambda: driver_problem)
        monkeypatch.setattr(onnxruntime, "InferenceSession", session)
        return opened

    return pretend


CUDA = ["CUDAExecutionProvider", "CPUExecutionProvider"]
FELL_BACK = ["CPUExecutionProvider"]


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has CUDA"
)
def test_cuda_on_a_build_for_the_cpu_is_refused_with_the_command_to_run(model):
    message = refusal(model, ProviderError, provider="cuda")
    assert "pip install '.[gpu]'" in message


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has CUDA"
)
def test_auto_on_a_build_for_the_cpu_is_the_cpu_without_a_word(model):
    """There is nothing to warn of: it was installed so."""
    with capture_logs() as logs:
        assert load_engine(model, provider="auto").provider is providers.CPU
    assert logs == []


@pytest.mark.parametrize("provider", ["cuda", "auto"])
def test_where_cuda_works_it_is_used(model, fake_cuda, provider):
    opened = fake_cuda(CUDA)
    engine = load_engine(model, provider=provider, options=EngineOptions(device_id=1))
    assert engine.provider is providers.CUDA
    assert engine.metadata[METADATA_KEY] == color_contract().model_dump_json()
    assert engine.classes == 3
    ((name, options), last) = opened[0]
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["device_id"] == 1


def test_a_gpu_may_be_used_with_cuda_and_a_driver_unless_the_cpu_was_asked_for(fake_cuda):
    fake_cuda(CUDA)
    expected = {asked: OnnxOpener(asked).expected() for asked in ("auto", "cuda", "cpu")}
    assert expected == {"auto": providers.CUDA, "cuda": providers.CUDA, "cpu": providers.CPU}
    fake_cuda(CUDA, driver_problem="libcuda.so.1: cannot open shared object file")
    assert OnnxOpener("auto").expected() is providers.CPU


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has CUDA"
)
def test_a_build_for_the_cpu_uses_no_gpu():
    assert OnnxOpener("auto").expected() is providers.CPU


@pytest.mark.parametrize(
    ("precision", "allowed", "asked", "layout", "rounds_to"),
    [
        ("fp32", None, "auto", "NCHW", None),
        ("fp32", {"tf32": ALLOWED}, "auto", "NHWC", "tf32"),
        ("fp32", {"tf32": ALLOWED}, "exact", "NCHW", None),
        ("fp32", {"bf16": ALLOWED}, "auto", "NCHW", None),
        ("fp32", None, "tf32", "NHWC", "tf32"),
        ("int8", None, "tf32", "NCHW", None),
        ("fp16", None, "auto", "NHWC", None),
        ("fp16", None, "exact", "NHWC", None),
    ],
)
def test_tensor_cores_are_used_for_fp16_and_for_float32_only_where_the_file_allows_it(
    tmp_path, fake_cuda, precision, allowed, asked, layout, rounds_to
):
    """An fp16 file's operands have no more bits than TF32 keeps, so nothing is rounded there."""
    opened = fake_cuda(CUDA)
    path = write_color_model(tmp_path / "x.onnx", precision=precision, allowed=allowed)
    engine = load_engine(path, provider="cuda", options=EngineOptions(precision=asked))
    taken = int(layout == "NHWC")
    (_, options), _ = opened[0]
    assert (options["use_tf32"], options["prefer_nhwc"]) == (taken, int(layout == "NHWC"))
    assert engine.attested["layout"] == layout
    assert engine.rounds_to == rounds_to


@pytest.mark.parametrize(("graphs", "taken"), [("auto", 1), ("off", 0)])
def test_graphs_are_captured_unless_they_are_off(model, fake_cuda, graphs, taken):
    opened = fake_cuda(CUDA)
    engine = load_engine(model, provider="cuda", options=EngineOptions(graphs=graphs))
    assert opened[0][0][1]["enable_cuda_graph"] == taken
    assert engine.attested["cuda_graphs"] is bool(taken)


def test_an_output_that_only_the_contract_has_is_refused(tmp_path, fake_cuda):
    fake_cuda(CUDA)
    path = write_color_model(tmp_path / "x.onnx", optional_outputs=("embedding",))
    assert "names embedding" in refusal(path, provider="cuda")


def test_models_of_one_opener_share_the_gpus_thread_which_ends_with_it(model, fake_cuda):
    fake_cuda(CUDA)
    opener = OnnxOpener("cuda", EngineOptions(device_id=3))
    assert opener.expected() is providers.CUDA
    engines = [opener.open(model, intra_op_threads=1) for _ in range(2)]
    assert [thread.name for thread in threading.enumerate()].count("gpu-3") == 1
    assert opener.trouble(60) == {}
    for engine in engines:
        engine.close()
    opener.close(10)
    assert "gpu-3" not in [thread.name for thread in threading.enumerate()]


def test_an_engine_without_an_opener_ends_its_gpus_thread_itself(model, fake_cuda):
    fake_cuda(CUDA)
    engine = load_engine(model, provider="cuda", options=EngineOptions(device_id=4))
    engine.close()
    assert "gpu-4" not in [thread.name for thread in threading.enumerate()]


def test_the_cpu_is_used_when_asked_for_even_if_cuda_works(model, fake_cuda):
    opened = fake_cuda(CUDA)
    assert load_engine(model, provider="cpu").provider is providers.CPU
    assert opened == []


def test_a_missing_driver_is_told_before_onnx_runtime_tries(model, fake_cuda):
    """The usual case, a GPU image on a machine without a GPU: one line that says so."""
    opened = fake_cuda(CUDA, driver_problem="libcuda.so.1: cannot open shared object file")
    message = refusal(model, ProviderError, provider="cuda")
    assert "no NVIDIA driver" in message
    assert "libcuda.so.1" in message
    assert opened == []
    assert load_engine(model, provider="auto").provider is providers.CPU


def test_a_silent_fall_to_the_cpu_is_refused_when_cuda_was_asked_for(model, fake_cuda):
    """ONNX Runtime raises nothing when the CUDA libraries are missing."""
    fake_cuda(FELL_BACK)
    message = refusal(model, ProviderError, provider="cuda")
    assert "fell back to the CPU" in message
    assert "nvidia-smi" in message
    assert "--provider cpu" in message


def test_a_silent_fall_to_the_cpu_is_logged_when_any_provider_will_do(model, fake_cuda):
    fake_cuda(FELL_BACK)
    with capture_logs() as logs:
        engine = load_engine(model, provider="auto")
    assert engine.provider is providers.CPU
    assert probabilities(engine, [BLACK]).shape == (1, 3)
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("serving_on_cpu", "warning")
    assert "fell back to the CPU" in entry["detail"]


BROKEN_CUDA = RuntimeError("CUDA failure 35: driver too old\n  at line 1\n  at line 2")


def test_a_cuda_that_fails_is_refused_with_the_first_line_of_its_error(model, fake_cuda):
    fake_cuda(BROKEN_CUDA)
    message = refusal(model, ProviderError, provider="cuda")
    assert "CUDA failure 35: driver too old" in message
    assert "at line 1" not in message


def test_a_cuda_that_fails_is_logged_when_any_provider_will_do(model, fake_cuda):
    fake_cuda(BROKEN_CUDA)
    with capture_logs() as logs:
        assert load_engine(model, provider="auto").provider is providers.CPU
    assert [entry["event"] for entry in logs] == ["serving_on_cpu"]


@pytest.mark.parametrize("provider", ["cuda", "auto"])
def test_a_broken_file_is_not_blamed_on_cuda(tmp_path, fake_cuda, provider):
    """It fails on CUDA first, but would on the CPU too."""
    fake_cuda(RuntimeError("INVALID_PROTOBUF"))
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with capture_logs() as logs:
        assert "can't load it" in refusal(path, ModelFileError, provider=provider)
    assert logs == []
