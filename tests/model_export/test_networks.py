"""Networks of the user's own code, by `--module`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from networks import random_network, save_checkpoint

from model_export.cli import main
from model_export.model_file import read_model
from service.engine.onnx import load_engine

CODE = """
import torch

def tiny():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3),
    )

def without_classes():
    return torch.nn.Conv2d(3, 4, 3)

def pair():
    class Pair(torch.nn.Module):
        def forward(self, x):
            return x, x
    return Pair()

def squeezing():
    class Squeezed(torch.nn.Module):
        def forward(self, x):
            return x.mean(dim=(2, 3)).squeeze()
    return Squeezed()

def failing():
    raise RuntimeError("no weights\\nhere")

def none():
    return "a network"
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code lies where the user is."""
    (tmp_path / "my_networks.py").write_text(CODE)
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)


def export(factory: str, *more: str) -> int:
    return main(["export", "--module", factory, "--output", "net.onnx", "--labels", "labels.txt",
                 "--input-size", "32", "--max-batch", "3", *more])  # fmt: skip


@pytest.mark.parametrize("more", [(), ("--storage", "fp16"), ("--precision", "fp16")])
def test_any_module_is_exported(more: tuple[str, ...]):
    """It gives probabilities, and nothing that only known networks have."""
    assert export("my_networks:tiny", *more) == 0
    contract = read_model(Path("net.onnx"))[1]
    assert contract.architecture == "tiny"
    assert contract.optional_outputs == ()
    assert contract.weights.source == "as returned by my_networks:tiny"
    assert len(contract.weights.sha256) == 64
    load_engine(Path("net.onnx"), provider="cpu")


def test_weights_come_from_a_file_too():
    """Their checksum is the file's; names that don't fit are shown."""
    trained = importlib.import_module("my_networks").tiny()
    torch.nn.init.zeros_(trained[5].weight)
    torch.save({"state_dict": trained.state_dict()}, "tiny.pth")
    assert export("my_networks:tiny", "--weights", "tiny.pth") == 0
    contract = read_model(Path("net.onnx"))[1]
    assert contract.weights.source == "tiny.pth, entry state_dict"
    first = contract.golden[0].probabilities
    assert contract.golden[1].probabilities == pytest.approx(first)  # whatever the image is


@pytest.mark.parametrize(
    ("factory", "more", "status", "message"),
    [
        ("my_networks", (), 2, "must be package.module:factory"),
        ("missing_module:tiny", (), 2, "ModuleNotFoundError: No module named 'missing_module'"),
        ("my_networks:missing", (), 2, "AttributeError"),
        ("my_networks:failing", (), 2, "RuntimeError: no weights"),
        ("sys:exit", (), 2, "SystemExit: no message"),
        ("my_networks:none", (), 2, "returned a str, not a torch.nn.Module"),
        ("my_networks:without_classes", (), 1, "must return logits [N, C] for N images; it gave"),
        ("my_networks:pair", (), 1, "it gave tuple"),
        ("my_networks:squeezing", (), 1, "it gave (3,) for 1"),
        ("my_networks:tiny", ("--stem", "small"), 2, "--stem is for the architectures"),
        ("my_networks:tiny", ("--weights", "imagenet"), 2, "is for the architectures of this"),
        ("my_networks:tiny", ("--weights", "net.pth"), 1, "does not fit my_networks:tiny"),
    ],
)
def test_what_is_no_classifier_is_told(
    capsys: pytest.CaptureFixture[str], factory, more, status, message
):
    save_checkpoint(random_network(), Path("net.pth"))
    assert export(factory, *more) == status
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not Path("net.onnx").exists()
