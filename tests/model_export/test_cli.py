"""The program: its commands, exit statuses and one-line errors."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from color_model import write_color_model
from full_disk import file_size_limited
from images import encode, photo
from networks import random_network, save_checkpoint
from odd_files import ODD_FILES

from model_export.cli import main
from model_export.command_line.app import COMMANDS, read_arguments
from model_export.model_file import read_model
from model_export.weights import OFFICIAL
from service.files import sha256_of


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of 5 classes at 32 pixels, `net.pth`, and its `labels.txt`."""
    folder = tmp_path_factory.mktemp("small")
    save_checkpoint(random_network(), folder / "net.pth")
    (folder / "labels.txt").write_text("ant\nbee\ncat\ndog\neel\n")
    return folder


def export_small(small: Path, output: Path, *more: str) -> int:
    arguments = ["--weights", str(small / "net.pth"), "--labels", str(small / "labels.txt")]
    arguments += ["--stem", "small", "--input-size", "32", "--max-batch", "3"]
    return main(["export", "resnet18", "--output", str(output), *arguments, *more])


@pytest.fixture(scope="module")
def model(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of the small checkpoint."""
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    assert export_small(small, path, "--source-note", "random weights") == 0
    return path


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, after those that tell how far it came."""
    out, err = capsys.readouterr()
    assert out == ""
    *steps, last = err.splitlines(keepends=True)
    assert all(line.endswith(" ...\n") for line in steps)
    assert last.startswith("resnet-export: ")
    return last


def test_a_network_is_exported_for_an_input_that_is_no_square(small: Path, tmp_path: Path):
    """With everything that is measured and replayed on the way."""
    output = tmp_path / "wide.onnx"
    more = ("--input-size", "24x40", "--fit", "contain", "--fill", "1", "2", "3")
    assert export_small(small, output, *more) == 0
    contract = read_model(output)[1]
    assert (contract.schema_version, contract.preprocessing.input_size) == (3, (24, 40))
    assert (contract.preprocessing.fit, contract.preprocessing.fill) == ("contain", (1, 2, 3))
    assert main(["verify", str(output), "--weights", str(small / "net.pth")]) == 0
    assert main(["describe", str(output), "--benchmark"]) == 0


def test_export_writes_the_file_and_says_what_was_measured(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Options and defaults end in the contract."""
    output = tmp_path / "birds" / "3.onnx"
    options = ("--storage", "fp16", "--mean", "0.5", "0.5", "0.5", "--interpolation", "bicubic")
    assert export_small(small, output, *options) == 0
    out, err = capsys.readouterr()
    assert "top-1 agreement 100.0% on 6 images at batch sizes 1, 2, 3" in out
    assert err.splitlines() == [
        "reading the weights ...",
        "writing the graph ...",
        "comparing with PyTorch at batch sizes 1, 2, 3 ...",
    ]
    contract = read_model(output)[1]
    assert (contract.name, contract.architecture, contract.storage) == ("birds", "resnet18", "fp16")
    assert [label.id for label in contract.labels] == ["ant", "bee", "cat", "dog", "eel"]
    images = contract.preprocessing
    assert (images.crop, images.resize, images.interpolation) == (32, 37, "bicubic")
    assert (images.mean, images.std) == ((0.5, 0.5, 0.5), (0.229, 0.224, 0.225))
    assert contract.weights.source == "net.pth"


def test_nothing_of_the_machine_is_in_the_file(model: Path, small: Path):
    """Neither the checkpoint's folder nor PyTorch's source paths."""
    content = model.read_bytes()
    for trace in (str(small).encode(), b"site-packages", b".py", str(Path.home()).encode()):
        assert trace not in content


def test_verify_replays_the_golden_cases(model: Path, capsys: pytest.CaptureFixture[str]):
    """Without the weights."""
    assert main(["verify", str(model)]) == 0
    assert "3 golden cases agree" in capsys.readouterr().out


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_verify_repeats_the_comparison(
    small: Path, tmp_path: Path, storage: str, capsys: pytest.CaptureFixture[str]
):
    """The network is rebuilt from the contract and the checkpoint."""
    output = tmp_path / "net.onnx"
    assert export_small(small, output, "--storage", storage) == 0
    assert main(["verify", str(output), "--weights", str(small / "net.pth")]) == 0
    assert "another file" not in capsys.readouterr().out


def test_verify_refuses_other_weights(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """With exit status 1."""
    network = random_network()
    with torch.no_grad():
        network.fc.bias += torch.arange(5.0)
    save_checkpoint(network, tmp_path / "other.pth")
    assert main(["verify", str(model), "--weights", str(tmp_path / "other.pth")]) == 1
    assert "probabilities differs from PyTorch's" in capsys.readouterr().err


def test_verify_refuses_a_file_that_forgot_its_answers(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A changed weight shows in the golden cases."""
    graph, _ = read_model(model)
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "network.fc.bias")
    bias.raw_data = np.array([3, 0, 0, 0, 0], np.float32).tobytes()
    (tmp_path / "changed.onnx").write_bytes(graph.SerializeToString())
    assert main(["verify", str(tmp_path / "changed.onnx")]) == 1
    error = the_error(capsys)
    assert "golden pattern 4 differs by" in error
    assert "golden photo differs by" in error


def test_describe_shows_a_table(model: Path, capsys: pytest.CaptureFixture[str]):
    """Everything that a user decides by."""
    assert main(["describe", str(model)]) == 0
    out = capsys.readouterr().out
    for text in ("small", "resnet18", "32 x 32", "5 (ant, bee, cat, ...)", "multiply-adds",
                 "random weights", "not measured", "top-1 agreement 100.0%"):  # fmt: skip
        assert text in out


def test_describe_shows_dots_only_for_labels_that_it_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["describe", str(write_color_model(tmp_path / "color.onnx"))]) == 0
    assert "3 (red, green, blue) " in capsys.readouterr().out


def test_verify_misses_the_weights_before_it_does_anything(
    model: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["verify", str(model), "--weights", "missing.pth"]) == 1
    assert "missing.pth: no such file" in the_error(capsys)  # and nothing on stdout


def test_describe_gives_json(model: Path, capsys: pytest.CaptureFixture[str]):
    """With the whole contract."""
    assert main(["describe", str(model), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["size_bytes"] == model.stat().st_size
    assert facts["parameters"] > 100_000
    assert facts["multiply_adds"] > 1_000_000
    assert facts["contract"]["name"] == "small"


@pytest.mark.full
@pytest.mark.parametrize("architecture", ["resnet50", "resnet101"])
def test_full_size_networks_export_and_verify(
    tmp_path: Path, architecture: str, capsys: pytest.CaptureFixture[str]
):
    """With random weights under torchvision's names, as ImageNet classifiers."""
    network = random_network(
        architecture, classes=1000, base_width=64, stem="imagenet", side=224
    )  # fmt: skip
    weights = str(save_checkpoint(network, tmp_path / "net.pth"))
    output = str(tmp_path / "net.onnx")
    command = ["export", architecture, "--weights", weights, "--output", output]
    assert main([*command, "--max-batch", "4"]) == 0
    assert main(["verify", output, "--weights", weights]) == 0
    contract = read_model(Path(output))[1]
    assert (contract.preprocessing.resize, contract.preprocessing.crop) == (256, 224)
    assert contract.labels[0].label == "tench"


def test_official_weights_bring_their_preprocessing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Known by their checksum, from the cache folder or from where they were put by hand."""
    network = random_network("resnet18", classes=1000, stem="imagenet", side=64)
    path = save_checkpoint(network, tmp_path / "any.pth")
    digest = sha256_of(path)
    file = f"resnet18-{digest[:8]}.pth"
    path.rename(tmp_path / file)
    official = OFFICIAL["resnet50"]
    renamed = type(official)(file, official.resize, official.crop, "bicubic", 70.0, 90.0)
    monkeypatch.setattr("model_export.weights.OFFICIAL", {"resnet18": renamed})
    output = tmp_path / "net.onnx"
    command = ["export", "resnet18", "--output", str(output), "--max-batch", "1"]
    for source in (["imagenet", "--cache-dir", str(tmp_path)], [str(tmp_path / file)]):
        assert main([*command, "--weights", *source]) == 0
        contract = read_model(output)[1]
        assert contract.preprocessing.resize == 232
        assert contract.preprocessing.interpolation == "bicubic"
        assert contract.weights.source.startswith(f"torchvision {file}; as published, top-1 70.0 %")
        assert contract.weights.sha256 == digest


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--labels", "missing.txt"], 1, "missing.txt: can't be read"),
        (["--weights", "missing.pth"], 1, "missing.pth: no such file"),
        (["--weights", "imagenet", "--stem", "deep"], 1, "download it by hand"),
        (["--module", "networks:random_network"], 2, "an architecture or --module, one of them"),
        (["--precision", "int8", "--storage", "fp16"], 2, "--storage is for --precision fp32"),
        (["--images", "photos"], 2, "--images is for --precision fp16 and int8"),
        (["--precision", "fp16", "--images", "missing"], 1, "missing: no such file"),
        (
            ["--precision", "int8", "--images", __file__],
            1,
            "is neither a folder nor a complete tar",
        ),
        (["--weights", "/"], 1, "/: is a folder, not a file"),
        (["--weights", " "], 2, "'--weights': is empty"),
        (["--min-agreement", "0.99"], 2, "--min-agreement is for --precision fp16 and int8"),
        (["--no-per-channel"], 2, "--per-channel is for --precision int8"),
        (["--precision", "fp16", "--reduce-range"], 2, "--reduce-range is for --precision int8"),
        (["--precision", "fp16", "--calibration-images", "9"], 2, "is for --precision int8"),
        (["--cache-dir", "cache"], 2, "--cache-dir is for --weights imagenet"),
        (["--output", "net.bin"], 2, "must end in .onnx"),
        (["--output", "run 1.onnx"], 2, "a model's name is letters, digits and"),
        (["--output", "bl\u00fcten.onnx"], 2, "a model's name is letters, digits and"),
        (["--output", "net/01.onnx"], 2, "a version is a number from 1 on"),
        (["--resize", "16"], 2, "crop (32) is larger than resize (16)"),
        (["--mean", "0", "nan", "0"], 2, "'--mean': nan is not a finite number"),
    ],
)
def test_export_errors_are_one_line_and_leave_no_file(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    more: list[str], status: int, message: str,
):  # fmt: skip
    """Status 2 for options that can't be, 1 for what they name."""
    assert export_small(small, tmp_path / "net.onnx", *more) == status
    assert message in the_error(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("said", "status"), [(True, 0), (False, 1)])
def test_a_stem_that_the_weights_do_not_tell_has_to_be_said(
    small: Path, tmp_path: Path, said: bool, status: int, capsys: pytest.CaptureFixture[str]
):
    """With a stride of 1, as for CIFAR's images, it would be another network of the same shapes."""
    command = ["export", "resnet18", "--weights", str(small / "net.pth"), "--labels",
               str(small / "labels.txt"), "--input-size", "32", "--max-batch", "1",
               "--output", str(tmp_path / "net.onnx")]  # fmt: skip
    assert main([*command, *(["--stem", "small"] if said else [])]) == status
    if not said:
        assert "pass --stem small if it is 2" in the_error(capsys)


def test_a_single_logit_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A model file has two classes at least."""
    weights = save_checkpoint(random_network(classes=1), tmp_path / "net.pth")
    command = ["export", "resnet18", "--weights", str(weights), "--stem", "small"]
    assert main([*command, "--input-size", "32", "--output", str(tmp_path / "net.onnx")]) == 1
    assert "the network returns one logit" in the_error(capsys)


def test_an_unwritable_place_is_one_line(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A file where a folder is needed."""
    (tmp_path / "file").write_text("")
    assert export_small(small, tmp_path / "file" / "net.onnx") == 1
    assert str(tmp_path / "file") in the_error(capsys)


def test_a_full_disk_is_one_line(
    small: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """With the file's name, and nothing is left."""
    output = tmp_path / "net.onnx"
    with file_size_limited(100_000):
        status = export_small(small, output)
    assert status == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"resnet-export: error: {output}: File too large"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("received", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption_is_one_line_and_a_status_of_its_own(
    small: Path,
    tmp_path: Path,
    received: signal.Signals,
    status: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """Ctrl-C, or a container's stop, during the export."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(*args: object, **kwargs: object) -> None:
        signal.raise_signal(received)

    monkeypatch.setattr("model_export.export.golden_cases", interrupt)
    assert export_small(small, tmp_path / "net.onnx") == status
    assert the_error(capsys) == "resnet-export: interrupted\n"
    assert not list(tmp_path.iterdir())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_an_interruption_that_a_library_turned_into_an_error_is_one(
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """As PyTorch does while it imports parts of its own."""

    def fail(*args: object, **kwargs: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise AttributeError("half-imported") from None

    monkeypatch.setattr("model_export.export.golden_cases", fail)
    assert export_small(small, tmp_path / "net.onnx") == 130
    assert the_error(capsys) == "resnet-export: interrupted\n"


def test_ctrl_c_before_and_after_the_work_has_no_traceback():
    """Python's start and end take a while, too, with PyTorch."""
    result = run_python(
        "import signal; from model_export import cli\n"
        "cli.main = lambda: signal.raise_signal(signal.SIGINT)\n"
        "cli.program()"
    )
    assert (result.returncode, result.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("number", [1, 2])
def test_a_closed_stream_is_no_bug(model: Path, number: int):
    """As by `>&-`; what was asked for is done."""
    result = subprocess.run(
        [sys.executable, "-m", "model_export", "verify", str(model)],
        check=False, capture_output=True, text=True, timeout=100,
        preexec_fn=lambda: os.close(number),
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")


def test_an_ignored_signal_stays_ignored(model: Path, monkeypatch: pytest.MonkeyPatch):
    """A shell's background jobs ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr(
            "model_export.describe.graph_cost",
            lambda _: signal.raise_signal(signal.SIGINT) or 1 / 0,
        )
        assert main(["describe", str(model)]) == 1
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_defect_shows_its_traceback(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Nothing is swallowed, and nothing is raised."""
    monkeypatch.setattr("model_export.describe.graph_cost", lambda _: 1 / 0)
    assert main(["describe", str(model)]) == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError" in err
    assert err.endswith("this is a bug in resnet-export; please report the lines above\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 5 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=["NumPy", "PyTorch"],
)
def test_too_little_memory_is_one_line(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error
):
    """It is the user's to change, and no defect."""

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("model_export.describe.graph_cost", fail)
    assert main(["describe", str(model)]) == 1
    assert "error: out of memory; try a smaller batch" in the_error(capsys)


@pytest.mark.parametrize(
    ("kind", "told"),
    [("folder", "is a folder, not a file"), ("empty", "is empty"), ("none", "no such file")],
)
def test_what_is_no_file_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, told: str
):
    path = tmp_path / "net.onnx"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    assert main(["describe", str(path)]) == 1
    assert f"{path}: {told}" in the_error(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["explain"],
        ["export", "resnet51"],
        ["export", "resnet50", "--weights", "a.pth"],
        ["export", "resnet50", "--output", "a.onnx"],
        ["export", "--weights", "a.pth", "--output", "a.onnx"],
        ["export", "cbam_resnet50", "--weights", "imagenet", "--output", "a.onnx"],
        ["export", "resnet50", "--weights", "a", "--output", "a.onnx", "--min-agreement", "2"],
        ["train", "photos", "--output", "run", "--sizes", "32"],
        ["train", "photos", "--output", "run", "--sizes", "900000:20"],
        ["adopt", "net.onnx", "--output", "./net.onnx"],
        ["export", "resnet50", "--weights", "a", "--output", "a.onnx", "--max-batch", "0"],
        ["export", "resnet50", "--weights", "a", "--output", "a.onnx", "--std", "1", "0", "1"],
        ["export", "resnet50", "--weights", "a", "--output", "a.onnx", "--name", " "],
        ["export", "resnet50", "--weights", "a", "--output", "a.onnx", "--mean", "1", "2"],
        ["export", "resnet50", "--weights", "a", "--output", "a.onnx", "--stem", "tiny"],
        ["export", "resnet50", "--weights", "a", "--output", "a.onnx", "--crop", "9"],
        ["export", "resnet50", "--weights", "a", "--output", "a.onnx", "--input-size", "5000"],
        ["train", "photos", "--output", "run", "--seed", "4294967296"],
        ["train", "photos", "--output", "run", "--epochs", "1.5"],
        ["train", "photos", "--output", "photos/run"],
    ],
)
def test_wrong_usage_has_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    """One line says what was wrong, in words of its own."""
    assert main(arguments) == 2
    told = the_error(capsys)
    assert not re.search("Input should|Value error|pydantic", told)


@pytest.mark.parametrize("more", [[], ["--resume"]])
def test_a_run_is_written_to_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
):
    """Of a file in its place that is said, before anything is read."""
    (tmp_path / "run").touch()
    assert main(["train", "photos", "--output", str(tmp_path / "run"), *more]) == 2
    assert "run: is a file, not a folder" in the_error(capsys)


def test_a_classifier_of_another_name_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Once, and its classes are those of the labels."""
    network = random_network()
    state = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    for leaf in ("weight", "bias"):
        state[f"head.fc.{leaf}"] = state.pop(f"backbone.fc.{leaf}")
    torch.save({"state_dict": state}, tmp_path / "net.pth")
    (tmp_path / "labels.txt").write_text("\n".join("abcde"))
    arguments = ["export", "resnet18", "--stem", "small", "--weights", str(tmp_path / "net.pth"),
                 "--labels", str(tmp_path / "labels.txt"), "--input-size", "32", "--max-batch", "2",
                 "--output", str(tmp_path / "net.onnx")]  # fmt: skip
    assert main(arguments) == 0
    assert capsys.readouterr().err.count("layer head.fc is used as the network's last") == 1
    contract = read_model(tmp_path / "net.onnx")[1]
    assert len(contract.labels) == 5
    assert contract.weights.source == "net.pth, entry state_dict, classifier head.fc"
    # Training says in a line of its own what of it begins anew.
    photos = [tmp_path / "photos" / name / f"{i}.png" for name in ("x", "y") for i in range(2)]
    for path in photos:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(photo(40, 40), "PNG"))
    arguments = ["train", str(tmp_path / "photos"), "--output", str(tmp_path / "run"), "--stem",
                 "small", "--weights", str(tmp_path / "net.pth"), "--architecture", "resnet18",
                 "--epochs", "1", "--input-size", "32", "--device", "cpu"]  # fmt: skip
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "randomly: fc.weight, fc.bias, since its classifier head.fc has 5 classes, not 2" in out
    assert "is taken" not in err


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


NEEDED_TO_RUN = {"torch", "onnx", "onnxruntime", "numpy", "PIL", "httpx"}


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["train", "--help"], 0),
        (["export", "resnet50", "--weights", "a.pth", "--output", "a.bin"], 2),
        (["export", "resnet50", "--weights", "a.pth", "--output", "a.onnx", "--images", "i"], 2),
        (["train", "photos", "--output", "run", "--epochs", "3", "--sizes", "32:2"], 2),
        (["export", "resnet50", "--weights", "missing.pth", "--output", "a.onnx"], 1),
    ],
)
def test_arguments_are_judged_without_waiting_for_pytorch(arguments: list[str], status: int):
    """Nor does importing the program have an effect."""
    result = run_python(
        f"import sys; from model_export.cli import main; status = main({arguments!r})\n"
        f"assert not {NEEDED_TO_RUN!r} & sys.modules.keys(); sys.exit(status)"
    )
    assert result.returncode == status, result.stderr


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("export", ["imagenet|deep|small", "fp32|fp16|int8", "Preprocessing", "Precision",
                    "Weights", "resnet50", "default: 32"]),
        ("verify", ["--weights", "Weights"]),
        ("describe", ["--benchmark"]),
        ("list", ["--json"]),
        ("evaluate", ["auto|cpu|cuda|openvino", "--plot"]),
        ("compare", ["SECOND", "--limit"]),
        ("allow", ["bf16|tf32|fp16", "--min-agreement", "real images"]),
        ("adopt", ["logits|probabilities", "rgb|bgr", "Model file"]),
        ("upgrade", ["--output", "older model file"]),
        ("train", ["sgd|adamw|sgd-noise", "Recipe", "Augmentation", "Held-out images"]),
    ],
)  # fmt: skip
def test_help_shows_groups_allowed_values_and_an_example(
    command: str, shown: list[str], capsys: pytest.CaptureFixture[str]
):
    assert main([command, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in shown:
        assert text in out
    assert f"Example: resnet-export {command} " in out


def test_examples_of_help_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each is read as it stands there, where the weights are."""
    monkeypatch.chdir(tmp_path)
    Path("flowers.pth").touch()
    for name, _, example in COMMANDS:
        assert callable(read_arguments([name, *shlex.split(example)]))


@pytest.mark.parametrize("package", ["torch", "typer"])
def test_a_missing_package_is_one_line(package: str):
    """The service's install has neither."""
    result = run_python(
        f"import sys; sys.modules[{package!r}] = None; from model_export.cli import main\n"
        "sys.exit(main(['verify', 'net.onnx']))"
    )
    assert result.returncode == 1
    assert result.stderr == (
        f"resnet-export: error: the package {package} is not installed; "
        "run `pip install '.[export,cpu]'` in the folder of its source\n"
    )


@pytest.mark.parametrize("kind", ODD_FILES)
@pytest.mark.parametrize(
    "arguments",
    ["export resnet18 --weights ODD --output net.onnx", "train photos --output run --weights ODD",
     "adopt ODD --output net.onnx", "verify ODD", "describe ODD", "evaluate ODD photos",
     "compare ODD ODD photos", "verify MODEL --weights ODD", "evaluate MODEL ODD"],
)  # fmt: skip
def test_what_is_no_file_is_told_and_keeps_nobody_waiting(
    small: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    kind: str,
):
    """Wherever a file is asked for."""
    monkeypatch.chdir(tmp_path)
    make, told = ODD_FILES[kind]
    make(Path("odd"))
    Path("photos").mkdir()
    given = arguments.replace("ODD", "odd").replace("MODEL", str(model)).split()
    status = main(given)
    _, err = capsys.readouterr()
    assert status == 1
    last = err.splitlines()[-1]
    if kind == "a folder" and given[-1] == "odd" and given[0] == "evaluate":
        told = "has no images"
    assert re.search(rf"^resnet-export: error: odd: {told}", last)
