"""Files of lower precision: held to float32, served, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from digits import ARCHITECTURE, CLASSES, SIDE, TrainedDigits
from networks import random_network, save_checkpoint
from PIL import Image

from model_export.agreement import agreement_of, check_agreement
from model_export.cli import main
from model_export.errors import AgreementError
from model_export.model_file import read_model
from service.contract import Agreement
from service.engine.onnx import load_engine
from service.golden import check_golden


@pytest.fixture(scope="module")
def folder(digits: TrainedDigits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained checkpoint, its labels and 120 images that it was not trained on."""
    folder = tmp_path_factory.mktemp("digits")
    save_checkpoint(digits.network, folder / "net.pth")
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    for number, (pixels, label) in enumerate(zip(digits.images, digits.labels, strict=True)):
        if number < 120:
            path = folder / "images" / CLASSES[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return folder


def export(folder: Path, output: Path, *more: str) -> int:
    return main([
        "export", ARCHITECTURE, "--weights", str(folder / "net.pth"), "--stem", "small",
        "--labels", str(folder / "labels.txt"), "--input-size", str(SIDE), "--resize", str(SIDE),
        "--max-batch", "3", "--output", str(output), *more,
    ])  # fmt: skip


@pytest.fixture
def small(tmp_path: Path) -> list[str]:
    """A command that exports a small network with random weights, in half precision, to int8."""
    state = {name: value.half() for name, value in random_network().state_dict().items()}
    (tmp_path / "weights").mkdir()
    torch.save(state, tmp_path / "weights" / "half.pth")
    (tmp_path / "weights" / "labels.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    return [
        "export", "resnet18", "--weights", str(tmp_path / "weights" / "half.pth"),
        "--stem", "small",
        "--labels", str(tmp_path / "weights" / "labels.txt"), "--input-size", "32",
        "--max-batch", "1", "--output", str(tmp_path / "out" / "net.onnx"), "--precision", "int8",
    ]  # fmt: skip


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speeds are measured, but not well."""
    monkeypatch.setattr("model_export.speed._ROUND_S", 0.01)


@pytest.fixture(scope="module")
def files(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network in each precision."""
    made = tmp_path_factory.mktemp("files")
    paths = {name: made / f"{name}.onnx" for name in ("fp32", "fp16", "int8")}
    images = ("--images", str(folder / "images"))
    assert export(folder, paths["fp32"]) == 0
    assert export(folder, paths["fp16"], "--precision", "fp16", *images) == 0
    assert export(folder, paths["int8"], "--precision", "int8", *images) == 0
    assert sorted(made.iterdir()) == sorted(paths.values())  # nothing is left beside them
    return paths


@pytest.mark.parametrize(("precision", "size"), [("fp16", 0.55), ("int8", 0.35)])
def test_the_file_is_smaller_and_agrees(files: dict[str, Path], precision: str, size: float):
    """Its contract says how far, on images that int8 was not calibrated on."""
    contract = read_model(files[precision])[1]
    assert contract.precision == contract.storage == precision
    agreement = contract.agreement
    assert agreement is not None
    assert (agreement.source, agreement.images) == ("images", 60 if precision == "int8" else 120)
    assert agreement.top1 >= 0.95
    assert agreement.mean_abs_diff <= agreement.max_abs_diff < 0.5
    assert files[precision].stat().st_size < size * files["fp32"].stat().st_size


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_service_accepts_it(files: dict[str, Path], precision: str):
    """Its golden cases agree at any batch size, and its inputs and outputs are float32's."""
    engine = load_engine(files[precision], provider="cpu")
    contract = read_model(files[precision])[1]
    for batch in (1, 3):
        assert check_golden(engine, contract, batch).failures == ()
    full = onnx.load(files["fp32"]).graph
    graph = onnx.load(files[precision]).graph
    for values, others in ((graph.input, full.input), (graph.output, full.output)):
        assert [(v.name, v.type.tensor_type.elem_type) for v in values] == [
            (v.name, v.type.tensor_type.elem_type) for v in others
        ]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_classifiers_weights_are_those_that_are_computed_with(
    files: dict[str, Path], digits: TrainedDigits, precision: str
):
    """So that activation maps belong to the answers."""
    session = onnxruntime.InferenceSession(files[precision], providers=["CPUExecutionProvider"])
    images = digits.images[:2]
    weight, embedding = session.run(["classifier_weight", "embedding"], {"images": images})
    exact = digits.network.get_parameter("fc.weight").detach().numpy()
    assert weight.shape == exact.shape
    assert np.abs(weight - exact).max() <= np.abs(exact).max() / (
        60 if precision == "int8" else 1e6
    )
    assert embedding.dtype == np.float32


def test_float16_computes_in_float16(files: dict[str, Path]):
    convolutions = [n for n in onnx.load(files["fp16"]).graph.node if n.op_type == "Conv"]
    kinds = {v.name: v.data_type for v in onnx.load(files["fp16"]).graph.initializer}
    assert len(convolutions) == 20
    assert {kinds[node.input[1]] for node in convolutions} == {onnx.TensorProto.FLOAT16}


def test_int8_computes_in_integers(files: dict[str, Path]):
    """Each convolution takes quantised weights, with a scale for each channel."""
    graph = onnx.load(files["int8"]).graph
    values = {value.name: value for value in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Conv":
            quantised = makers[node.input[1]]
            assert quantised.op_type == "DequantizeLinear"
            weight, scale = values[quantised.input[0]], values[quantised.input[1]]
            assert weight.data_type == onnx.TensorProto.INT8
            assert list(scale.dims) == [weight.dims[0]]


def test_logits_are_not_rounded_to_256_values(files: dict[str, Path]):
    """Else labels tie."""
    graph = onnx.load(files["int8"]).graph
    makers = {output: node for node in graph.node for output in node.output}
    (softmax,) = (node for node in graph.node if node.op_type == "Softmax")
    assert makers[softmax.input[0]].op_type == "Gemm"


def test_reduced_range_takes_seven_bits(small: list[str], tmp_path: Path):
    largest = {}
    for name in ("--reduce-range", "--no-reduce-range"):
        assert main([*small, name, "--min-agreement", "0"]) == 0
        weights = [
            onnx.numpy_helper.to_array(value)
            for value in onnx.load(tmp_path / "out" / "net.onnx").graph.initializer
            if value.data_type == onnx.TensorProto.INT8
        ]
        largest[name] = max(int(np.abs(weight.astype(int)).max()) for weight in weights)
    assert largest["--reduce-range"] <= 64 < largest["--no-reduce-range"] <= 128


def test_a_file_that_agrees_too_little_is_refused(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """And none is left; the gate's own measure is in the message."""
    worse = measured(0.9)
    monkeypatch.setattr("model_export.precision.measure_agreement", lambda *_: worse)
    assert main(small) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "only 90.00% of 32 images (generated patterns)" in message
    assert "less than 95.00% (--min-agreement)" in message
    assert not list((tmp_path / "out").iterdir())
    assert main([*small, "--min-agreement", "0.9"]) == 0


def measured(top1: float) -> Agreement:
    return Agreement(
        source="generated patterns", images=32, top1=top1, mean_abs_diff=0.1, max_abs_diff=0.5
    )


def test_generated_images_come_with_a_warning(small: list[str], capsys: pytest.CaptureFixture[str]):
    """Weights that float16 holds exactly, as many checkpoints have, are quantised too."""
    assert main([*small, "--min-agreement", "0"]) == 0
    out, err = capsys.readouterr()
    assert err.startswith(
        "warning: without --images, generated patterns are used instead of photos"
    )
    assert "of 32 images (generated patterns) get the same label as " in out
    assert read_model(Path(small[small.index("--output") + 1]))[1].storage == "int8"


def test_verify_does_not_compare_it_with_pytorch(
    files: dict[str, Path], folder: Path, capsys: pytest.CaptureFixture[str]
):
    """Its own answers are checked; another distance than float32's rounding is no mistake."""
    assert main(["verify", str(files["int8"])]) == 0
    assert main(["verify", str(files["int8"]), "--weights", str(folder / "net.pth")]) == 2
    assert "has precision int8" in capsys.readouterr().err


def test_describe_shows_agreement_and_speed(
    files: dict[str, Path], capsys: pytest.CaptureFixture[str], briefly: None
):
    assert main(["describe", str(files["int8"]), "--benchmark"]) == 0
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "int8, weights stored as int8" in out
    assert "of 60 images (images) get the same label as in float32" in out
    assert "batch of 8:" in out


def test_compare_shows_both_in_the_rows_of_describe(
    files: dict[str, Path],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    briefly: None,
    monkeypatch: pytest.MonkeyPatch,
):
    """Those that may differ, and what each took here."""
    monkeypatch.setenv("COLUMNS", "300")  # so that nothing is broken
    command = ["compare", str(files["fp32"]), str(files["int8"]), str(folder / "images")]
    assert main([*command, "--limit", "20"]) == 0
    out = capsys.readouterr().out
    assert "of 20 images (images) get the same label as with the first file" in out
    lines = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines()]
    rows = {cells[0]: cells[1:] for cells in lines if len(cells) == 3}
    assert rows["precision"] == ["fp32, weights stored as fp32", "int8, weights stored as int8"]
    assert rows["agreement with float32"][0] == "exact"
    assert all("batch of 1: " in speed and "images/s" in speed for speed in rows["speed"])
    assert {"parameters", "GFLOPs", "size", "accuracy"} < rows.keys()
    assert "golden cases" not in rows
    assert main(["describe", str(files["int8"])]) == 0
    assert rows["size"][1] in capsys.readouterr().out


def test_compare_runs_each_file_and_not_one_of_them_twice(
    files: dict[str, Path], folder: Path, capsys: pytest.CaptureFixture[str], briefly: None
):
    command = ["compare", str(files["fp32"]), str(files["int8"]), str(folder / "images"), "--json"]
    assert main(command) == 0
    facts = json.loads(capsys.readouterr().out)
    told = facts["agreement"]
    assert [file["contract"]["precision"] for file in facts["files"]] == ["fp32", "int8"]
    assert 0 < told["mean_abs_diff"] <= told["max_abs_diff"]
    assert main([command[0], command[1], *command[1:2], *command[3:]]) == 0
    assert json.loads(capsys.readouterr().out)["agreement"]["max_abs_diff"] == 0


def test_agreement_is_counted_over_all_batches():
    one = np.array([[0.6, 0.4], [0.2, 0.8]], np.float32)
    other = np.array([[0.5, 0.5], [0.7, 0.3]], np.float32)
    agreement = agreement_of([(one, other), (one[:1], one[:1])], "numbers")
    assert (agreement.images, agreement.top1) == (3, pytest.approx(2 / 3))
    assert agreement.mean_abs_diff == pytest.approx((0.1 + 0.5) / 3)
    assert agreement.max_abs_diff == pytest.approx(0.5)
    with pytest.raises(AgreementError, match=r"66\.67% of 3 images"):
        check_agreement(agreement, 0.7)
    check_agreement(agreement, 0.6)


def test_answers_that_are_no_numbers_are_refused():
    """Float16 overflows where float32 does not."""
    one = np.array([[0.6, 0.4]], np.float32)
    with pytest.raises(AgreementError, match="not finite"):
        agreement_of([(one, one * np.nan)], "numbers")
