"""The command, from a folder of images to a checkpoint that `export` takes."""

from __future__ import annotations

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import file_size_limited
from networks import random_network, save_checkpoint
from photos import photo_folder
from PIL import Image
from sklearn.datasets import load_digits

from model_export.checkpoint import read_checkpoint
from model_export.cli import main
from model_export.evaluate import evaluate
from model_export.model_file import read_model
from service.engine.onnx import load_engine

SMALL = ("--width", "8", "--stem", "small", "--input-size", "32", "--resize", "32", "--batch", "6",
         "--warmup-epochs", "0.5")  # fmt: skip


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return photo_folder(tmp_path / "photos", images=10)


def arguments(photos: Path, run: Path, *more: str) -> list[str]:
    return ["train", str(photos), "--output", str(run), *SMALL, *more]


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    content = torch.load(path, weights_only=True)
    return {f"{entry}.{name}": value for entry in ("model", "model_ema") if entry in content
            for name, value in content[entry].items()}  # fmt: skip


def assert_same(one: Path, other: Path) -> None:
    first, second = tensors_of(one), tensors_of(other)
    assert first
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scikit-learn's handwritten digits as PNG files, a folder for each."""
    folder, digits = tmp_path_factory.mktemp("digits") / "images", load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image * 255 / 16).astype(np.uint8)).resize((16, 16)).save(path)
    return folder


def test_digits_are_learned_exported_and_evaluated(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """97 % of held-out images and more; labels and preprocessing reach the model file."""
    run, model = tmp_path / "run", tmp_path / "digits.onnx"
    command = ["train", str(digits), "--output", str(run), "--stem", "small", "--width", "16",
               "--input-size", "16", "--resize", "16", "--epochs", "6", "--no-flip",
               "--learning-rate", "0.1", "--min-area", "0.7"]  # fmt: skip
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "10 classes, 1438 images to train on and 359 held out" in out
    with (run / "metrics.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["epoch"] for row in rows] == [str(epoch) for epoch in range(6)]
    assert max(float(row["val_top1"]) for row in rows) >= 0.97
    assert "<svg" in (run / "metrics.html").read_text()
    export = out.splitlines()[-1].split()  # as it is suggested, but for the place
    assert export[:2] == ["resnet-export", "export"]
    export[export.index("--output") + 1] = str(model)
    assert main([*export[1:], "--max-batch", "2"]) == 0
    contract = read_model(model)[1]
    assert [label.label for label in contract.labels] == [str(digit) for digit in range(10)]
    assert (contract.preprocessing.resize, contract.preprocessing.crop) == (16, 16)
    assert evaluate(load_engine(model, provider="cpu"), contract, digits).top1 >= 0.97


@pytest.mark.parametrize(
    ("when", "more"),
    [
        pytest.param("resnet18, 3 classes", (), id="in its first epoch"),
        pytest.param("epoch 1:", ("--optimiser", "sgd-noise"), id="SGD with noise"),
        pytest.param("epoch 1:", ("--optimiser", "adamw", "--workers", "2", "--sizes", "16:2,32:2"),
                     id="AdamW"),
    ],
)  # fmt: skip
def test_a_killed_run_goes_on_to_the_same_end(photos: Path, tmp_path: Path, when: str, more: tuple):
    """Killed in the middle of an epoch, it loses that epoch and nothing else."""
    options = (*more, "--epochs", "4")
    assert main(arguments(photos, tmp_path / "whole", *options)) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "model_export", *arguments(photos, tmp_path / "killed", *options)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(when):  # the state of that epoch may be written or not
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert main(arguments(photos, tmp_path / "killed", *options, "--resume")) == 0
    for name in ("last.pth", "best.pth"):
        assert_same(tmp_path / "whole" / name, tmp_path / "killed" / name)
    for run in ("whole", "killed"):
        with (tmp_path / run / "metrics.csv").open() as table:
            assert [row["epoch"] for row in csv.DictReader(table)] == ["0", "1", "2", "3"]


def test_a_run_is_not_overwritten_nor_mixed_with_another(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = tmp_path / "run"
    assert main(arguments(photos, run, "--epochs", "1", "--resume")) == 2
    assert "there is nothing to resume" in capsys.readouterr().err
    assert main(arguments(photos, run, "--epochs", "1")) == 0
    before = (run / "last.pth").read_bytes()
    capsys.readouterr()
    for more, message in (
        (("--epochs", "1"), "already has a run; --resume continues it"),
        (("--epochs", "2", "--resume"), "epochs (then 1, now 2)"),
        (("--epochs", "1", "--resume", "--mean", "0", "0", "0"), "preprocessing (then"),
        (("--epochs", "1", "--resume", "--no-flip"), "augmentation (then"),
        (("--epochs", "1", "--resume", "--width", "16"), "width (then 8, now 16)"),
        (("--epochs", "1", "--resume", "--validation-fraction", "0.5"), "images (then"),
    ):
        assert main(arguments(photos, run, *more)) == 2
        assert message in capsys.readouterr().err
    assert (run / "last.pth").read_bytes() == before


def test_a_trained_network_is_fine_tuned(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Its classifier of other classes is begun anew; the rest is where training starts."""
    weights = save_checkpoint(random_network(classes=5), tmp_path / "net.pth")
    command = arguments(photos, tmp_path / "run", "--weights", str(weights), "--epochs", "1")
    assert main([*command, "--learning-rate", "1e-9", "--ema-decay", "0"]) == 0
    assert "initialised randomly: fc.weight, fc.bias" in capsys.readouterr().out
    trained = read_checkpoint(tmp_path / "run" / "last.pth", "model").state
    begun = read_checkpoint(weights).state
    assert trained["fc.weight"].shape == (3, 64)
    for name in ("conv1.weight", "layer4.1.conv2.weight"):
        torch.testing.assert_close(trained[name], begun[name], atol=1e-6, rtol=0)


def test_it_stops_when_nothing_gets_better(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = arguments(photos, tmp_path / "run", "--epochs", "30", "--patience", "2")
    assert main([*command, "--learning-rate", "1e-9"]) == 0
    out = capsys.readouterr().out
    assert "no improvement for 2 epochs" in out
    assert out.count("held out: loss") < 30


def test_a_validation_folder_of_its_own_is_used(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = photo_folder(tmp_path / "held", images=2)
    command = arguments(photos, tmp_path / "run", "--epochs", "1", "--validation", str(other))
    assert main(command) == 0
    assert "30 images to train on and 6 held out" in capsys.readouterr().out
    assert main([*command, "--validation-fraction", "0.5"]) == 2
    assert "--validation-fraction can't be combined with" in capsys.readouterr().err
    (other / "red").rename(other / "crimson")
    command[3] = str(tmp_path / "again")
    assert main(command) == 2
    assert "has different classes: crimson, ..." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (("--device", "cuda"), 2, "PyTorch finds no GPU here"),
        (("--sizes", "16:1", "--epochs", "2"), 2, "--sizes cover 1 epochs, but --epochs is 2"),
        (("--warmup-epochs", "2", "--epochs", "2"), 2, "must be less than --epochs, 2"),
        (("--workers", "257"), 2, "257 is not a whole number from 0 to 256"),
        (("--weights-entry", "model"), 2, "--weights-entry goes with --weights"),
        (("--cache-dir", "cache", "--weights", "net.pth"), 2, "is for --weights imagenet"),
        (("--learning-rate", "1e18", "--epochs", "3"), 1, "the loss is not finite any more"),
        (("--weights", "missing.pth"), 1, "missing.pth: no such file"),
        (("--architecture", "alexnet", "--stem", "small"), 2, "alexnet has only one stem"),
        (
            ("--architecture", "botnet26t_256", "--sizes", "64:1", "--epochs", "1"),
            2,
            "--sizes: botnet26t_256 takes images of one size only: 32",
        ),
    ],
)
def test_mistakes_are_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more, status, message
):
    if "cuda" in more and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(arguments(photos, tmp_path / "run", *more)) == status
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_an_input_that_is_too_small_to_be_judged_is_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """The training images were larger."""
    sizes = ("--width", "8", "--input-size", "32", "--sizes", "64:1", "--epochs", "1")
    command = ["train", str(photos), "--output", str(tmp_path / "run"), "--batch", "6", *sizes]
    assert main([*command, "--architecture", "alexnet"]) == 1
    err = capsys.readouterr().err
    assert "PyTorch can't run 6 images of 32 pixels at a time" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_broken_image_is_told_by_name(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str
):
    """Also by a process of its own."""
    for path in (photos / "red").iterdir():
        path.write_bytes(b"hello")
    run = tmp_path / "run"
    assert main(arguments(photos, run, "--epochs", "1", "--workers", workers)) == 1
    err = capsys.readouterr().err
    assert re.search(r"error: \S+/red/\d\.jpg: the content is not in an accepted", err)
    assert err.count("\n") == 1
    shutil.rmtree(photos / "red")
    assert main(arguments(photos, run, "--epochs", "1", "--workers", workers)) == 0


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_image_that_breaks_during_the_run_is_told_by_name(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: str,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    """Also by a process of its own."""
    monkeypatch.setattr("model_export.training.command.check_images", lambda _: None)
    for path in (photos / "red").iterdir():
        path.write_bytes(b"hello")
    assert main(arguments(photos, tmp_path / "run", "--epochs", "1", "--workers", workers)) == 1
    err = capsys.readouterr().err
    assert re.search(r"error: \S+/red/\d\.jpg: the content is not in an accepted", err)
    assert err.count("\n") == 1


def test_file_names_may_be_of_any_bytes(photos: Path, tmp_path: Path):
    """As an old archive leaves them."""
    (photos / "red" / "0.jpg").rename(photos / "red" / os.fsdecode(b"caf\xe9.jpg"))
    assert main(arguments(photos, tmp_path / "run", "--epochs", "1")) == 0


def test_what_was_trained_is_fine_tuned_with_its_own_stem_and_width(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Neither has to be said again; an other width is refused and leaves no folder."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(arguments(photos, first, "--epochs", "1")) == 0
    command = ["train", str(photos), "--output", str(second), "--weights", str(first / "best.pth"),
               "--epochs", "1", "--batch", "6"]  # fmt: skip
    assert main([*command, "--width", "16"]) == 1
    assert "does not fit the network to be trained" in capsys.readouterr().err
    assert not second.exists()
    assert main(command) == 0
    assert "initialised randomly: nothing" in capsys.readouterr().out
    trained = read_checkpoint(second / "best.pth")
    assert trained.about["stem"] == "small"
    assert trained.state["conv1.weight"].shape == (8, 3, 3, 3)


def test_the_command_that_is_suggested_gives_a_name_that_can_be_served(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(arguments(photos, tmp_path / "my run (1)", "--epochs", "1")) == 0
    assert "--output models/my-run-1.onnx" in capsys.readouterr().out


def test_weights_trained_as_another_architecture_are_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Some have the same names and shapes."""
    run = tmp_path / "run"
    assert main(arguments(photos, run, "--epochs", "1", "--architecture", "dilated_resnet50")) == 0
    command = ["export", "resnet50", "--weights", str(run / "best.pth")]
    assert main([*command, "--output", str(tmp_path / "net.onnx")]) == 1
    assert "was trained as dilated_resnet50, not as resnet50" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "stem"), [("resnet18", "deep"), ("resnet18d", "imagenet")])
def test_what_was_trained_with_another_stem_is_exported_as_it_is(
    photos: Path, tmp_path: Path, name: str, stem: str
):
    run = tmp_path / "run"
    more = ("--epochs", "1", "--architecture", name, "--stem", stem)
    assert main(arguments(photos, run, *more)) == 0
    command = ["export", name, "--weights", str(run / "best.pth"), "--max-batch", "1"]
    assert main([*command, "--output", str(tmp_path / "net.onnx")]) == 0


def test_a_run_that_a_full_disk_stopped_goes_on(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """It is told in one line, and no file is cut."""
    run = tmp_path / "run"
    with file_size_limited(20_000):
        assert main(arguments(photos, run, "--epochs", "1")) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(r"resnet-export: error: .*\.pth: File too large\n", err), err
    assert not [file for file in run.iterdir() if file.suffix in {".part", ".pth"}]
    assert main(arguments(photos, run, "--epochs", "1")) == 0


def test_a_run_among_the_images_is_refused(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Those to train on, or those held out."""
    assert main(arguments(photos, photos / "run", "--epochs", "1")) == 2
    assert f"is inside the folder of images {photos}, like a class" in capsys.readouterr().err
    held = tmp_path / "held"
    assert main(arguments(photos, held / "run", "--epochs", "1", "--validation", str(held))) == 2
    assert f"is inside the folder of images {held}, like a class" in capsys.readouterr().err


def test_what_is_trained_on_is_not_held_out(photos: Path, tmp_path: Path, capsys, monkeypatch):
    """Its accuracy would say nothing of other images."""
    monkeypatch.chdir(photos)
    assert main(arguments(photos, tmp_path / "run", "--validation", ".")) == 2
    assert "--validation .: is the folder that is trained on" in capsys.readouterr().err


def test_the_learning_rate_is_of_the_images_that_a_step_really_has(photos: Path, tmp_path: Path):
    """30 images, of which 24 are trained on, are fewer than the batch that was asked for."""
    rates = []
    for name, batch in (("all", "24"), ("more", "1000000")):
        command = arguments(photos, tmp_path / name, "--epochs", "1", "--batch", batch)
        assert main(command) == 0
        rates.append(torch.load(tmp_path / name / "last.pth")["recipe"]["learning_rate"])
    assert rates == [0.1 * 24 / 256] * 2


def test_a_damaged_state_is_told(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run = tmp_path / "run"
    assert main(arguments(photos, run, "--epochs", "1")) == 0
    (run / "last.pth").write_bytes((run / "last.pth").read_bytes()[:-500])
    assert main(arguments(photos, run, "--epochs", "1", "--resume")) == 1
    assert "last.pth: is damaged" in capsys.readouterr().err
    torch.save({"model": {}}, run / "last.pth")
    assert main(arguments(photos, run, "--epochs", "1", "--resume")) == 1
    assert "last.pth: is not the state of a run" in capsys.readouterr().err
