"""The graph is what the service expects, and nothing more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from exports import exported
from networks import normalised, patterns, preprocessing, random_network
from onnx import ModelProto, TensorProto, numpy_helper

from model_export.errors import GraphError
from model_export.graph import prepare, to_onnx
from model_export.options import Storage

CLASSES, WIDTH, SIDE = 5, 256, 32


def graph(shared: Path, storage: Storage = "fp32") -> ModelProto:
    network = random_network("resnet50", classes=CLASSES)
    return exported(shared, prepare(network, preprocessing(SIDE), storage), (SIDE, SIDE), storage)


def run(model: ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


@pytest.fixture(scope="module")
def model(shared: Path) -> ModelProto:
    return graph(shared)


@pytest.fixture(scope="module")
def half_model(shared: Path) -> ModelProto:
    return graph(shared, "fp16")


def test_input_and_outputs_have_the_documented_shapes(model: ModelProto):
    """Pixels in, probabilities out, and what activation maps need."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    inputs = {node.name: (node.type, node.shape) for node in session.get_inputs()}
    outputs = {node.name: (node.type, node.shape) for node in session.get_outputs()}
    assert inputs == {"images": ("tensor(uint8)", ["batch", SIDE, SIDE, 3])}
    assert outputs == {
        "probabilities": ("tensor(float)", ["batch", CLASSES]),
        "embedding": ("tensor(float)", ["batch", WIDTH]),
        "features": ("tensor(float)", ["batch", WIDTH, 2, 2]),
        "classifier_weight": ("tensor(float)", [CLASSES, WIDTH]),
    }


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_any_batch_size_gives_each_image_its_answer(model: ModelProto, batch: int):
    """The same as PyTorch's, with torchvision's preprocessing outside of the network."""
    images = patterns(batch, SIDE)
    network = random_network("resnet50", classes=CLASSES)
    with torch.inference_mode():
        features = network.feature_map(normalised(images)).numpy()
        probabilities = torch.softmax(network(normalised(images)), dim=1).numpy()
    got = run(model, images)
    np.testing.assert_allclose(got["probabilities"], probabilities, atol=1e-5)
    np.testing.assert_allclose(got["features"], features, atol=1e-3)
    np.testing.assert_allclose(got["embedding"], features.mean(axis=(2, 3)), atol=1e-3)
    np.testing.assert_array_equal(got["classifier_weight"], network.fc.weight.detach().numpy())


def test_versions_are_those_asked_for(model: ModelProto):
    """PyTorch's exporter leaves another operator set without a word."""
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert model.ir_version == 10


def test_normalisation_is_folded_and_no_node_is_wasted(model: ModelProto):
    """A convolution for each in the network, one subtraction, one softmax."""
    nodes = Counter(node.op_type for node in model.graph.node)
    assert nodes == {
        "Transpose": 1, "Cast": 1, "Sub": 1, "Conv": 53, "Relu": 49, "Add": 16, "ReduceMean": 1,
        "Gemm": 1, "Softmax": 1,
    }  # fmt: skip


@pytest.mark.parametrize("fixture", ["model", "half_model"])
def test_nothing_tells_of_the_machine(fixture: str, request: pytest.FixtureRequest):
    """PyTorch writes source paths and stack traces into every node."""
    content = request.getfixturevalue(fixture).SerializeToString()
    for trace in (b".py", b"site-packages", b"torch.nn", b"File ", str(Path.home()).encode()):
        assert trace not in content


def test_no_data_is_outside_of_the_file(model: ModelProto):
    """One file is all there is."""
    locations = {tensor.data_location for tensor in model.graph.initializer}
    assert locations == {TensorProto.DEFAULT}


def test_float16_storage_halves_the_file(model: ModelProto, half_model: ModelProto):
    """Biases, the first convolution and the graph itself stay as they are."""
    weights = sum(
        numpy_helper.to_array(tensor).nbytes
        for tensor in model.graph.initializer
        if tensor.name.endswith("weight")
    )
    saved = model.ByteSize() - half_model.ByteSize()
    assert 0.48 * weights < saved < 0.5 * weights


def test_float16_storage_keeps_the_first_convolution(half_model: ModelProto):
    """Its weights, divided by 255 std, would fall below float16's normal range."""
    types = {tensor.name: tensor.data_type for tensor in half_model.graph.initializer}
    assert types["network.conv1.weight"] == TensorProto.FLOAT
    assert types["network.layer4.0.conv1.weight.fp16"] == TensorProto.FLOAT16
    assert types["classifier_weight.fp16"] == TensorProto.FLOAT16


def test_float16_storage_computes_in_float32(half_model: ModelProto):
    """Exactly as PyTorch does in float32 with the rounded weights."""
    images = patterns(4, SIDE)
    network = random_network("resnet50", classes=CLASSES)
    served = prepare(network, preprocessing(SIDE), "fp16")
    with torch.inference_mode():
        probabilities, embedding, _ = served(torch.from_numpy(images))
    got = run(half_model, images)
    np.testing.assert_allclose(got["probabilities"], probabilities.numpy(), atol=1e-5)
    np.testing.assert_allclose(got["embedding"], embedding.numpy(), atol=1e-3)
    rounded = network.fc.weight.detach().half().float().numpy()
    np.testing.assert_array_equal(got["classifier_weight"], rounded)


def test_float16_weights_cost_nothing_at_run_time(half_model: ModelProto, tmp_path: Path):
    """ONNX Runtime casts them once, at load: the image's cast alone is left."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(half_model.SerializeToString(), options)
    optimised = onnx.load(tmp_path / "optimised.onnx")
    casts = [node for node in optimised.graph.node if node.op_type == "Cast"]
    assert len(casts) == 1
    assert casts[0].input[0] not in {tensor.name for tensor in optimised.graph.initializer}


def test_weights_beyond_float16_are_refused():
    """They would become infinite."""
    network = random_network()
    with torch.no_grad():
        network.fc.weight[0, 0] = 70_000
    with pytest.raises(GraphError, match=r"fc.weight has values outside"):
        prepare(network, preprocessing(SIDE), "fp16")


def test_preparing_leaves_the_network_as_it_was():
    """It is still needed as the reference."""
    network = random_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prepare(network, preprocessing(SIDE), "fp16")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_exporting_prints_nothing(capfd: pytest.CaptureFixture[str]):
    """PyTorch's exporter remarks on what it does not need."""
    to_onnx(prepare(random_network(depths=(1, 1, 1, 1)), preprocessing(SIDE)), (SIDE, SIDE))
    assert capfd.readouterr() == ("", "")
