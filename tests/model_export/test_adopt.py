"""Foreign ONNX classifiers become model files that answer as they did."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from full_disk import file_size_limited
from networks import MEAN, STD, patterns, random_network
from onnx import TensorProto, helper, numpy_helper

from model_export.cli import main
from model_export.model_file import read_model
from service.engine.base import probabilities
from service.engine.onnx import load_engine
from service.golden import check_golden

SIDE = 32


def foreign(
    path: Path, *, softmax: bool = False, batch: int | str = "N", opset: int = 17,
    names: tuple[str, str] = ("input", "output"), weights_as_inputs: bool = False,
    side: int | str = SIDE, square: bool = False,
) -> Path:  # fmt: skip
    """A small classifier as other exporters write them: float [N, 3, H, W], five logits."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "b": random.normal(0, 0.3, 8).astype(np.float32),
        "fc": random.normal(0, 2, (8, 5)).astype(np.float32),
    }
    source, result = names
    pooled = "pooled" if square else "flat"
    nodes = [
        helper.make_node("Conv", [source, "w", "b"], ["conv"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "fc"], ["logits" if softmax else result]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["logits"], [result], axis=1))
    inputs = [helper.make_tensor_value_info(source, TensorProto.FLOAT, [batch, 3, side, side])]
    if weights_as_inputs:
        inputs += [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
            for name, value in weights.items()
        ]
    outputs = [helper.make_tensor_value_info(result, TensorProto.FLOAT, [batch, 5])]
    if square:
        outputs = [helper.make_tensor_value_info(pooled, TensorProto.FLOAT, [batch, 8, 1, 1])]
        nodes = nodes[:3]
    graph = helper.make_graph(
        nodes, "foreign", inputs, outputs,
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 3 if weights_as_inputs else 8
    onnx.save(model, path)
    return path


def adopt(file: Path, output: Path, *more: str, labels: int = 5) -> int:
    (output.parent / "labels.txt").write_text("\n".join(f"class {i}" for i in range(labels)))
    return main(["adopt", str(file), "--output", str(output), "--max-batch", "4",
                 "--labels", str(output.parent / "labels.txt"), *more])  # fmt: skip


def expected(file: Path, images: np.ndarray, *, softmax: bool, bgr: bool = False) -> np.ndarray:
    """The original's answers to images prepared in NumPy, one after another."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    x = (images / 255 - np.array(MEAN)) / np.array(STD)
    x = x.transpose(0, 3, 1, 2).astype(np.float32)
    x = x[:, ::-1].copy() if bgr else x
    name = session.get_inputs()[0].name
    values = np.concatenate([session.run(None, {name: one[None]})[0] for one in x])
    values = values.reshape(len(values), -1)
    exp = np.exp(values - values.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True) if softmax else values


@pytest.mark.parametrize(
    ("made", "more", "softmax"),
    [
        pytest.param({}, (), True, id="logits"),
        pytest.param({"softmax": True}, (), False, id="probabilities"),
        pytest.param({"softmax": True}, ("--gives", "logits"), True, id="said to be logits"),
        pytest.param({"batch": 1}, (), True, id="declared for one image"),
        pytest.param({"opset": 9, "weights_as_inputs": True}, (), True, id="an old file"),
        pytest.param({"names": ("images", "probabilities")}, (), True, id="names as ours"),
        pytest.param({"names": ("offset", "scale")}, (), True, id="names of what is added"),
        pytest.param({}, ("--channels", "bgr"), True, id="BGR"),
        pytest.param({"side": "S"}, ("--input-size", str(SIDE)), True, id="any size"),
    ],
)
def test_the_file_answers_as_the_original(tmp_path: Path, made: dict, more: tuple, softmax: bool):
    """From uint8 images, at any batch size, as the service checks it."""
    file = foreign(tmp_path / "foreign.onnx", **made)
    output = tmp_path / "adopted.onnx"
    assert adopt(file, output, *more) == 0
    contract = read_model(output)[1]
    assert (contract.architecture, contract.optional_outputs) == ("adopted", ())
    assert contract.preprocessing.crop == SIDE
    engine = load_engine(output, provider="cpu")
    assert check_golden(engine, contract, batch=3).failures == ()
    images = patterns(5, SIDE)
    want = expected(file, images, softmax=softmax, bgr="bgr" in more)
    np.testing.assert_allclose(probabilities(engine, [*images]), want, atol=1e-5)
    assert want.std(axis=0).max() > 1e-3


def test_an_exported_network_is_adopted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """As PyTorch's exporter writes it, without any of our steps."""
    network = random_network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own internals
        program = torch.onnx.export(network, (torch.zeros(2, 3, SIDE, SIDE),), dynamo=True,
                                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                                    verbose=False)  # fmt: skip
    program.save(str(tmp_path / "net.onnx"))
    capsys.readouterr()
    assert adopt(tmp_path / "net.onnx", tmp_path / "adopted.onnx") == 0
    assert "5 classes, logits in the original" in capsys.readouterr().out
    assert main(["describe", str(tmp_path / "adopted.onnx")]) == 0


@pytest.mark.parametrize(
    ("made", "more", "labels", "message"),
    [
        ({}, (), 4, "4 labels for a network of 5 classes"),
        ({"side": "S"}, ("--input-size", "0"), 5, ""),
        ({"square": True}, ("--output-name", "other"), 5, "must be one of its outputs: pooled"),
        ({}, ("--input-size", "16"), 5, "does not run on float32"),
    ],
)
def test_what_does_not_fit_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], made, more, labels, message
):
    file = foreign(tmp_path / "foreign.onnx", **made)
    assert adopt(file, tmp_path / "adopted.onnx", *more, labels=labels) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "adopted.onnx").exists()


def test_answers_of_one_by_one_pixel_are_flattened(tmp_path: Path):
    """Some give [N, C, 1, 1]."""
    file = foreign(tmp_path / "foreign.onnx", square=True)
    assert adopt(file, tmp_path / "adopted.onnx", labels=8) == 0
    engine = load_engine(tmp_path / "adopted.onnx", provider="cpu")
    images = patterns(3, SIDE)
    np.testing.assert_allclose(
        probabilities(engine, [*images]), expected(file, images, softmax=True), atol=1e-5
    )


def test_a_file_for_one_image_at_a_time_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Inside it is written for one, whatever it declares."""
    file = foreign(tmp_path / "foreign.onnx")
    model = onnx.load(file)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 8]), "shape"))
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    flatten.input.append("shape")
    del flatten.attribute[:]
    onnx.save(model, file)
    assert adopt(file, tmp_path / "adopted.onnx") == 1
    err = capsys.readouterr().err
    assert "foreign.onnx: does not take several images at a time" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "adopted.onnx").exists()


def write_graph(path: Path, kind: int, shape: list) -> Path:
    """An identity, which is no classifier."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "none",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        (TensorProto.UINT8, ["N", 3, 8, 8], "is UINT8 [0, 3, 8, 8], not float32"),
        (TensorProto.FLOAT, ["N", 8, 8, 3], "not float32 [N, 3, H, W]"),
        (TensorProto.FLOAT, ["N", 3, 8], "not float32 [N, 3, H, W]"),
        (TensorProto.FLOAT, ["N", 3, 8, 16], "16 x 8 pixels, and only squares"),
        (TensorProto.FLOAT, ["N", 3, 8, 8], "not float32 [1, C]"),
    ],
)
def test_what_is_no_classifier_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind, shape, message
):
    file = write_graph(tmp_path / "foreign.onnx", kind, shape)
    assert adopt(file, tmp_path / "adopted.onnx") == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"hello", b""])
def test_what_is_no_onnx_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
):
    if content is not None:
        (tmp_path / "foreign.onnx").write_bytes(content)
    assert adopt(tmp_path / "foreign.onnx", tmp_path / "adopted.onnx") == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_full_disk_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """And is one line with the file's name."""
    file, output = foreign(tmp_path / "foreign.onnx"), tmp_path / "net.onnx"
    with file_size_limited(1000):
        assert adopt(file, output) == 1
    assert capsys.readouterr().err == f"resnet-export: error: {output}: File too large\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.onnx", "labels.txt"]
