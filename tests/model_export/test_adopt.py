"""Foreign ONNX classifiers become model files that answer as they did."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from full_disk import file_size_limited
from images import encode, photo
from networks import MEAN, STD, patterns, random_network
from odd_files import ODD_FILES
from onnx import TensorProto, helper, numpy_helper

from model_export.cli import main
from model_export.model_file import read_model
from model_export.pixels import EXACT
from service.engine.base import probabilities
from service.engine.onnx import load_engine
from service.golden import check_golden
from service.preprocess.decode import decode

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


def scaled(file: Path, images: np.ndarray, mean: Any, std: Any) -> np.ndarray:
    """The original's softmax for uint8 images, of which `mean` is subtracted."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    x = (images.transpose(0, 3, 1, 2) - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    values = np.concatenate(
        [session.run(None, {"input": one[None].astype(np.float32)})[0] for one in x]
    )
    exp = np.exp(values - values.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("scale", "mean", "std"),
    [
        ("1", (0, 0, 0), (255, 255, 255)),
        ("1", (123.675, 116.28, 103.53), (58.4, 57.1, 57.4)),
        ("0.00784313725490196", (1, 1, 1), (1, 1, 1)),
    ],
)
def test_any_scale_of_pixels_is_adopted(tmp_path: Path, scale, mean, std):
    """As they are, as Caffe takes them, or from -1 to 1."""
    file, output = foreign(tmp_path / "foreign.onnx"), tmp_path / "adopted.onnx"
    assert adopt(file, output, "--rescale", scale,
                 "--mean", *map(str, mean), "--std", *map(str, std)) == 0  # fmt: skip
    images = patterns(3, SIDE)
    answers = probabilities(load_engine(output, provider="cpu"), [*images])
    want = scaled(file, images, np.divide(mean, float(scale)), np.divide(std, float(scale)))
    np.testing.assert_allclose(answers, want, atol=1e-5)


def test_an_input_that_is_no_square_is_adopted_and_takes_images_of_any_shape(tmp_path: Path):
    file, output = tmp_path / "foreign.onnx", tmp_path / "adopted.onnx"
    model = onnx.load(foreign(file))
    for dim, side in zip(
        model.graph.input[0].type.tensor_type.shape.dim[2:], (24, 40), strict=True
    ):
        dim.dim_value = side
    onnx.save(model, file)
    assert adopt(file, output, "--fit", "contain", "--fill", "9", "8", "7") == 0
    contract = read_model(output)[1]
    assert (contract.schema_version, contract.preprocessing.input_size) == (3, (24, 40))
    pixels = decode(encode(photo(50, 50), "PNG"), contract.preprocessing, EXACT).pixels
    assert (pixels[:, :8] == (9, 8, 7)).all()
    assert not (pixels[:, 9] == (9, 8, 7)).all()
    engine = load_engine(output, provider="cpu")
    assert check_golden(engine, contract, batch=3).failures == ()


@pytest.mark.parametrize(
    ("more", "facts"),
    [
        ((), {"fit": "short_side", "resize": 37, "crop": 32, "offset": "even"}),
        (("--crop-pct", "0.9"), {"fit": "short_side", "resize": 35}),
        (("--offset", "down"), {"offset": "down"}),
        (("--fit", "squash"), {"fit": "squash", "resize": 32}),
        (("--fit", "squash", "--resize", "40x36"), {"resize": (40, 36), "crop": 32}),
        (("--fit", "contain", "--position", "top_left"), {"position": "top_left"}),
        (("--fit", "cover", "--resize", "40x36"), {"fit": "cover", "resize": (40, 36)}),
        (("--interpolation", "hamming"), {"interpolation": "hamming"}),
    ],
)
def test_preprocessing_is_recorded_as_the_sizes_it_comes_to(tmp_path: Path, more, facts):
    output = tmp_path / "adopted.onnx"
    assert adopt(foreign(tmp_path / "foreign.onnx"), output, *more) == 0
    found = read_model(output)[1].preprocessing
    assert {name: getattr(found, name) for name in facts} == facts


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--fill", "1", "2", "3"), "--fill is for --fit contain"),
        (("--rescale", "1"), "--rescale changes what --mean and --std mean"),
        (("--crop-pct", "0.9", "--resize", "40"), "say the same thing"),
        (("--fit", "short_side", "--resize", "40x36"), "--resize is one number"),
        (("--fit", "squash", "--resize", "30x40"), "crop (32) is larger than resize (30 x 40)"),
        (("--input-size", "32x"), "is not a whole number from 1 to 4096"),
        (("--crop-pct", "0"), "above 0 and up to 1"),
    ],
)
def test_preprocessing_that_does_not_go_together_is_one_line(tmp_path: Path, capsys, more, said):
    assert adopt(foreign(tmp_path / "foreign.onnx"), tmp_path / "adopted.onnx", *more) == 2
    assert said in capsys.readouterr().err


def test_a_preprocessor_file_says_how_images_are_prepared(tmp_path: Path, capsys):
    """Alone: options beside it would contradict it."""
    file, output = foreign(tmp_path / "foreign.onnx"), tmp_path / "adopted.onnx"
    config = tmp_path / "preprocessor_config.json"
    config.write_text(
        '{"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}'
    )
    assert adopt(file, output, "--preprocessor", str(config)) == 0
    images = patterns(3, SIDE)
    answers = probabilities(load_engine(output, provider="cpu"), [*images])
    want = scaled(file, images, (127.5,) * 3, (127.5,) * 3)
    np.testing.assert_allclose(answers, want, atol=1e-5)
    capsys.readouterr()
    assert adopt(file, output, "--preprocessor", str(config), "--fit", "squash") == 2
    assert "leave out --fit" in capsys.readouterr().err
    config.write_text("{}")
    assert adopt(file, output, "--preprocessor", str(config)) == 1
    assert "preprocessor_config.json: is neither" in capsys.readouterr().err


@pytest.mark.parametrize("of_logits", [True, False])
def test_independent_labels_are_adopted_with_their_thresholds(tmp_path: Path, of_logits: bool):
    """Logits get a sigmoid, and a sigmoid's outputs stay as they are."""
    file, output = foreign(tmp_path / "foreign.onnx"), tmp_path / "adopted.onnx"
    want = expected(file, patterns(5, SIDE), softmax=False)
    want = 1 / (1 + np.exp(-want))
    if not of_logits:
        changed(file, node("Sigmoid", ["z"], ["y"]))
    (tmp_path / "thresholds.json").write_text('{"class 2": 0.25}')
    assert adopt(file, output, "--multi-label", "--threshold", "0.4",
                 "--thresholds", str(tmp_path / "thresholds.json")) == 0  # fmt: skip
    contract = read_model(output)[1]
    assert contract.schema_version == 3
    assert contract.multi_label is not None
    assert contract.multi_label.threshold == 0.4
    assert contract.multi_label.thresholds == {"class 2": 0.25}
    engine = load_engine(output, provider="cpu")
    assert check_golden(engine, contract, batch=3).failures == ()
    answers = probabilities(engine, [*patterns(5, SIDE)])
    np.testing.assert_allclose(answers, want, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "written", "status", "said"),
    [
        (("--threshold", "0.4"), None, 2, "--threshold goes with --multi-label"),
        (("--multi-label", "--thresholds", "none.json"), None, 1, "none.json: can't be read"),
        (("--multi-label",), "[1]", 1, "must be a JSON object of label ids"),
        (("--multi-label",), '{"class 2": 1.5}', 1, "each with a number from 0 to 1"),
        (("--multi-label",), '{"dog": 0.5}', 1, "dog is no label's id"),
        (("--multi-label", "--threshold", "2"), None, 2, "from 0 to 1"),
    ],
)
def test_thresholds_that_can_not_be_are_one_line(
    tmp_path: Path, capsys, more, written, status, said
):
    file, output = foreign(tmp_path / "foreign.onnx"), tmp_path / "adopted.onnx"
    if written is not None:
        (tmp_path / "thresholds.json").write_text(written)
        more = (*more, "--thresholds", str(tmp_path / "thresholds.json"))
    assert adopt(file, output, *more) == status
    assert said in capsys.readouterr().err
    assert not output.exists()


def test_values_that_may_be_either_are_asked_about_for_independent_labels(tmp_path: Path, capsys):
    file = foreign(tmp_path / "foreign.onnx", softmax=True)
    assert adopt(file, tmp_path / "adopted.onnx", "--multi-label") == 1
    assert "--gives says which" in capsys.readouterr().err


def test_an_exported_network_is_adopted(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """As PyTorch's exporter writes it, without any of our steps."""
    network = random_network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own internals
        program = torch.onnx.export(network, (torch.zeros(2, 3, SIDE, SIDE),), dynamo=True,
                                    dynamic_shapes=({0: torch.export.Dim("batch")},),
                                    verbose=False)  # fmt: skip
    assert program is not None
    program.save(str(tmp_path / "net.onnx"))
    capsys.readouterr()
    assert adopt(tmp_path / "net.onnx", tmp_path / "adopted.onnx") == 0
    assert "5 classes, logits in the original" in capsys.readouterr().out
    assert main(["describe", str(tmp_path / "adopted.onnx")]) == 0


@pytest.mark.parametrize(
    ("made", "more", "labels", "message"),
    [
        ({}, (), 4, "4 labels, but the network has 5 classes"),
        ({"side": "S"}, ("--input-size", "0"), 5, ""),
        (
            {"square": True},
            ("--output-name", "other"),
            5,
            "other: must be one of its outputs: pooled",
        ),
        ({}, ("--input-size", "16"), 5, f"the network takes images of {SIDE} pixels only"),
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


def changed(file: Path, *nodes: onnx.NodeProto, opset: int = 17, **constants: object) -> Path:
    """Put nodes behind the logits, which become `z`; the last one's result is the file's."""
    model = onnx.load(file)
    model.graph.node[-1].output[0] = "z"
    model.graph.node.extend(nodes)
    model.graph.output[0].name = nodes[-1].output[0]
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    model.opset_import[0].version = opset
    onnx.save(model, file)
    return file


def refusal(file: Path, capsys: pytest.CaptureFixture[str], *more: str, labels: int = 5) -> str:
    """The one line that a file is refused with, which names it, and never PyTorch."""
    output = file.parent / "adopted.onnx"
    assert adopt(file, output, *more, labels=labels) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"resnet-export: error: {file}: ")
    assert err.count("\n") == 1
    assert "PyTorch" not in err
    assert not output.exists()
    return err


node = helper.make_node


@pytest.mark.parametrize(
    ("nodes", "constants", "cause"),
    [
        pytest.param([node("Softmax", ["z"], ["y"], axis=0)], {},
                     "depends on other images in its batch (Softmax over axis 0", id="softmax"),
        pytest.param([node("ReduceMean", ["z"], ["m"], axes=[0]), node("Sub", ["z", "m"], ["y"])],
                     {}, "", id="one image less its own mean"),
        pytest.param([node("ReduceMax", ["z"], ["m"], axes=[0]), node("Mul", ["z", "m"], ["y"])],
                     {}, "depends on other images in its batch (ReduceMax", id="maximum"),
        pytest.param([node("Reshape", ["z", "row"], ["y"])], {"row": [1, -1]},
                     "depends on other images in its batch (Reshape to [1, -1])", id="one row"),
        pytest.param([node("RandomNormalLike", ["z"], ["n"]), node("Add", ["z", "n"], ["y"])], {},
                     "changes at random: it has RandomNormalLike", id="random"),
        pytest.param([node("Sub", ["z", "z"], ["n"]), node("Div", ["n", "n"], ["y"])], {},
                     "is not finite", id="NaN"),
        pytest.param([node("DynamicQuantizeLinear", ["z"], ["q", "s", "p"]),
                      node("DequantizeLinear", ["q", "s", "p"], ["y"])], {},
                     "is quantised dynamically (DynamicQuantizeLinear", id="dynamic quantisation"),
    ],
)  # fmt: skip
def test_answers_that_depend_on_more_than_the_image_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nodes, constants: dict, cause: str
):
    """By their cause."""
    file = changed(foreign(tmp_path / "foreign.onnx"), *nodes, **constants)
    assert cause in refusal(file, capsys)


@pytest.mark.parametrize(
    ("opset", "outputs", "more"),
    [(14, ["y", "m", "v"], {"training_mode": 1}), (9, ["y", "m", "v", "sm", "sv"], {})],
)
def test_normalisation_in_training_mode_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], opset: int, outputs: list, more: dict
):
    """Whichever way an operator set has to say so; in inference mode it is taken."""
    inputs = ["z", "one", "zero", "zero_mean", "one_variance"]
    numbers = dict.fromkeys(inputs[1:], np.zeros(5, np.float32))
    numbers |= {"one": np.ones(5, np.float32), "one_variance": np.ones(5, np.float32)}
    file = foreign(tmp_path / "foreign.onnx", opset=opset)
    changed(file, node("BatchNormalization", inputs, outputs, **more), opset=opset, **numbers)
    assert "BatchNormalization is in training mode" in refusal(file, capsys)
    file = foreign(tmp_path / "foreign.onnx", opset=opset)
    changed(file, node("BatchNormalization", inputs, ["y"]), opset=opset, **numbers)
    assert adopt(file, tmp_path / "adopted.onnx") == 0


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Sigmoid", ["z"], ["y"])],
        [node("Sigmoid", ["z"], ["s"]), node("Flatten", ["s"], ["y"])],
        [node("Tanh", ["z"], ["y"])],
        # As others write a sigmoid.
        [node("Neg", ["z"], ["n"]), node("Exp", ["n"], ["e"]), node("Add", ["e", "unit"], ["a"]),
         node("Reciprocal", ["a"], ["y"])],
        [node("Softmax", ["z"], ["s"], axis=1), node("Mul", ["s", "hundred"], ["y"])],
    ],
    ids=["sigmoid", "flattened", "tanh", "in parts", "per cent"],
)  # fmt: skip
def test_what_is_neither_logits_nor_probabilities_is_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nodes: list
):
    file = changed(foreign(tmp_path / "foreign.onnx"), *nodes, unit=np.float32(1),
                   hundred=np.float32(100))  # fmt: skip
    assert "--gives probabilities to serve them as they are" in refusal(file, capsys)


@pytest.mark.parametrize(("gives", "softmax"), [("probabilities", False), ("logits", True)])
def test_sigmoids_are_served_as_they_are_said_to_be(tmp_path: Path, gives: str, softmax: bool):
    file = changed(foreign(tmp_path / "foreign.onnx"), node("Sigmoid", ["z"], ["y"]))
    assert adopt(file, tmp_path / "adopted.onnx", "--gives", gives) == 0
    images = patterns(3, SIDE)
    engine = load_engine(tmp_path / "adopted.onnx", provider="cpu")
    np.testing.assert_allclose(
        probabilities(engine, [*images]), expected(file, images, softmax=softmax), atol=1e-5
    )


def test_logits_are_no_probabilities_whatever_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = foreign(tmp_path / "foreign.onnx")
    assert "its answers range from" in refusal(file, capsys, "--gives", "probabilities")


def test_a_single_answer_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """As of a classifier of yes and no."""
    file = changed(foreign(tmp_path / "foreign.onnx"),
                   node("ReduceSum", ["z", "axes"], ["s"]), node("Sigmoid", ["s"], ["y"]),
                   axes=[1])  # fmt: skip
    assert "is one number per image, as for yes or no" in refusal(file, capsys, labels=2)


@pytest.mark.parametrize("shape", [["N", "A", "B", "C"], ["N", SIDE, SIDE, 3]])
def test_channels_last_is_seen_in_the_graph_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: list
):
    """Where no dimension is declared."""
    file = foreign(tmp_path / "foreign.onnx")
    model = onnx.load(file)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("last", TensorProto.FLOAT, shape))
    model.graph.node.insert(0, node("Identity", ["last"], ["same"]))
    model.graph.node.insert(1, node("Transpose", ["same"], ["input"], perm=[0, 3, 1, 2]))
    onnx.save(model, file)
    assert "channels last, not float32 [N, 3, H, W]" in refusal(file, capsys)


def test_only_what_was_involved_is_named(tmp_path: Path):
    """An adopted file was made without PyTorch."""
    assert adopt(foreign(tmp_path / "foreign.onnx"), tmp_path / "adopted.onnx") == 0
    made_with = read_model(tmp_path / "adopted.onnx")[1].tools
    assert made_with.keys() == {"resnet-serve", "onnx", "onnxruntime", "pillow"}


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
        (TensorProto.UINT8, ["N", 3, 8, 8], "is UINT8 [N, 3, 8, 8], not float32"),
        (
            TensorProto.FLOAT,
            ["N", 8, 8, 3],
            "[N, 8, 8, 3], channels last, not float32 [N, 3, H, W]",
        ),
        (TensorProto.FLOAT, ["N", "H", "W", 3], "[N, H, W, 3], channels last"),
        (98, ["N", 3, 8, 8], "is of an unknown type (98) [N, 3, 8, 8], not float32"),
        (TensorProto.FLOAT, [None, None, None, 3], "[?, ?, ?, 3], channels last"),
        (TensorProto.FLOAT, ["N", 1, 8, 8], "[N, 1, 8, 8], not float32 [N, 3, H, W]"),
        (TensorProto.FLOAT, [8, 3, 8, 8], "takes 8 images at a time"),
        (TensorProto.FLOAT, [0, 3, 8, 8], "declared as [0, 3, 8, 8], but no dimension can be 0"),
        (TensorProto.FLOAT, [-1, 3, 8, 8], "with a dynamic batch size"),
        (TensorProto.FLOAT, ["N", 3, 8], "not float32 [N, 3, H, W]"),
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


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"hello", "is text, perhaps a failed download: hello"),
        (b"<!doctype html><html>", "is a web page, perhaps a failed download"),
        (LFS_POINTER, "`git lfs pull` fetches the file"),
        (b"\x93\x07 nothing known", "is not an ONNX file, or is damaged"),
        (b"\x12\x03abc", "has no graph"),  # a protocol buffer by chance
    ],
)
def test_what_is_no_onnx_file_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, told: str
):
    if content is not None:
        (tmp_path / "foreign.onnx").write_bytes(content)
    assert told in refusal(tmp_path / "foreign.onnx", capsys)


@pytest.mark.parametrize("name", ["net.json", "net.textproto", "net.onnxtxt", "net.ort", "net"])
def test_files_are_read_whatever_they_are_called(tmp_path: Path, name: str):
    """`onnx` and ONNX Runtime would judge them by how their names end."""
    file = foreign(tmp_path / "foreign.onnx").rename(tmp_path / name)
    assert adopt(file, tmp_path / "adopted.onnx") == 0


@pytest.mark.parametrize("form", ["json", "textproto", "onnxtxt"])
@pytest.mark.parametrize("name", ["foreign.onnx", "foreign.json", "foreign.textproto"])
def test_onnx_as_text_is_named_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, form: str
):
    model = onnx.load(foreign(tmp_path / "foreign.onnx"))
    with warnings.catch_warnings(action="ignore"):  # a form is experimental
        onnx.save(model, tmp_path / name, format=form)
    assert f"{name}: is ONNX as text; save it in the usual" in refusal(tmp_path / name, capsys)


def with_data(folder: Path, location: str = "w.bin", *, lengths: bool = True) -> tuple[Path, Path]:
    """A classifier with all weights in a file beside it, and that file."""
    file = foreign(folder / "foreign.onnx")
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="w.bin", size_threshold=0)
    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        entries["location"] = location
        if not lengths:
            del entries["length"]
        del tensor.external_data[:]
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)
    onnx.save(model, file)
    return file, folder / "w.bin"


@pytest.mark.parametrize("lengths", [True, False])
def test_weights_beside_the_file_are_adopted(tmp_path: Path, lengths: bool):
    """Their lengths may be left out."""
    file, _ = with_data(tmp_path, lengths=lengths)
    assert adopt(file, tmp_path / "adopted.onnx") == 0
    engine = load_engine(tmp_path / "adopted.onnx", provider="cpu")
    images = patterns(2, SIDE)
    np.testing.assert_allclose(
        probabilities(engine, [*images]), expected(file, images, softmax=True), atol=1e-5
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda data: data[:-50], "it has only", id="short"),
        pytest.param(lambda _: b"", "it is empty", id="empty"),
        pytest.param(lambda _: LFS_POINTER, "`git lfs pull` fetches the file", id="pointer"),
        # As long as the weights, so that nothing but its content tells.
        pytest.param(lambda data: b"<html>" + b" " * len(data), "it is a web page", id="page"),
        pytest.param(None, "there is no such file", id="missing"),
    ],
)
@pytest.mark.parametrize("lengths", [True, False])
def test_weights_beside_the_file_that_cannot_be_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change, told: str, lengths: bool
):
    """With the name of their file, in one line."""
    file, data = with_data(tmp_path, lengths=lengths)
    if change is None:
        data.unlink()
    else:
        data.write_bytes(change(data.read_bytes()))
    err = refusal(file, capsys)
    assert "its weights in w.bin can't be read: " in err
    assert told in err


@pytest.mark.parametrize("kind", ODD_FILES)
def test_what_is_no_file_of_weights_is_named_and_keeps_nobody_waiting(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
):
    monkeypatch.chdir(tmp_path)
    file, data = with_data(tmp_path)
    data.unlink()
    make, told = ODD_FILES[kind]
    make(data)
    assert re.search(
        rf"its weights in w.bin can't be read: (it|there is) {told}", refusal(file, capsys)
    )


@pytest.mark.parametrize("location", ["../w.bin", "/w.bin"])
def test_weights_of_another_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], location: str
):
    file, _ = with_data(tmp_path, location)
    assert f"its weights in {location} can't be read: only files in the" in refusal(file, capsys)


def test_a_model_file_is_told_that_it_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model = tmp_path / "model.onnx"
    assert adopt(foreign(tmp_path / "foreign.onnx"), model) == 0
    capsys.readouterr()
    assert "is already a model file" in refusal(model, capsys)


@pytest.mark.parametrize(
    "last",
    [node("Unsqueeze", ["z", "axes"], ["y"]),
     node("Cast", ["z"], ["y"], to=TensorProto.DOUBLE)],
    ids=["one row more", "float64"],
)  # fmt: skip
def test_answers_of_other_forms_are_taken(tmp_path: Path, last: onnx.NodeProto):
    """[N, 1, C], and float64."""
    file = changed(foreign(tmp_path / "foreign.onnx"), last, axes=[1])
    if last.op_type == "Cast":
        model = onnx.load(file)
        model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
        onnx.save(model, file)
    assert adopt(file, tmp_path / "adopted.onnx") == 0
    engine = load_engine(tmp_path / "adopted.onnx", provider="cpu")
    images = patterns(3, SIDE)
    np.testing.assert_allclose(
        probabilities(engine, [*images]), expected(file, images, softmax=True), atol=1e-5
    )


def of_type(file: Path, kind: int, *more: str) -> Path:
    """Declare the output's type, and other values as further outputs."""
    model = onnx.load(file)
    model.graph.output[0].type.tensor_type.elem_type = kind
    for name in more:
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    onnx.save(model, file)
    return file


ARGMAX = (node("ArgMax", ["z"], ["y"], axis=1), TensorProto.INT64)
HALF = (node("Cast", ["z"], ["y"], to=TensorProto.FLOAT16), TensorProto.FLOAT16)


@pytest.mark.parametrize(
    ("last", "told"),
    [(ARGMAX, "export it again without its last step, ArgMax"),
     (HALF, "export it again with float32 outputs")],
)  # fmt: skip
def test_another_output_is_advised_only_where_there_is_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], last: tuple, told: str
):
    step, kind = last
    file = of_type(changed(foreign(tmp_path / "foreign.onnx"), step), kind)
    err = refusal(file, capsys)
    assert told in err
    assert "--output-name" not in err
    of_type(file, kind, "z")
    assert "has 2 outputs, y, z; --output-name selects one" in refusal(file, capsys)
    assert "--output-name selects another: z" in refusal(file, capsys, "--output-name", "y")
    assert adopt(file, tmp_path / "adopted.onnx", "--output-name", "z") == 0


def test_a_file_without_outputs_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = foreign(tmp_path / "foreign.onnx")
    model = onnx.load(file)
    del model.graph.output[:]
    onnx.save(model, file)
    assert "has no output" in refusal(file, capsys)


def test_a_full_disk_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """And is one line with the file's name."""
    file, output = foreign(tmp_path / "foreign.onnx"), tmp_path / "net.onnx"
    with file_size_limited(1000):
        assert adopt(file, output) == 1
    assert capsys.readouterr().err == f"resnet-export: error: {output}: File too large\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign.onnx", "labels.txt"]
