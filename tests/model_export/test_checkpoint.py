"""Checkpoints load without running code, and into the network that they are of."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from networks import random_network, save_checkpoint
from safetensors.torch import save_file

from model_export.checkpoint import read_checkpoint
from model_export.errors import WeightsError
from model_export.files import sha256_of
from model_export.loading import build_network, stem_of


class Malicious:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["net.pth", "net.pt", "net.safetensors"])
def test_parameters_round_trip(tmp_path: Path, name: str):
    """From each kind of file, into a network that computes the same."""
    network, path = random_network("resnet50"), tmp_path / name
    if path.suffix == ".safetensors":
        save_file(network.state_dict(), path)
    else:
        save_checkpoint(network, path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.sha256 == sha256_of(path)
    assert stem_of("resnet50", checkpoint) == "small"
    loaded = build_network("resnet50", checkpoint, "small")
    assert not loaded.training
    assert loaded.fc.out_features == 5
    for name_, tensor in network.state_dict().items():
        if not name_.endswith("num_batches_tracked"):
            assert torch.equal(loaded.state_dict()[name_], tensor)


def test_half_precision_checkpoints_load_as_float32(tmp_path: Path):
    """Computation is in float32 whatever the file stores."""
    state = {name: value.half() for name, value in random_network().state_dict().items()}
    save_file(state, tmp_path / "half.safetensors")
    network = build_network("resnet18", read_checkpoint(tmp_path / "half.safetensors"), "small")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_step_counters_may_be_missing(tmp_path: Path):
    """Old torchvision files have none."""
    state = random_network().state_dict()
    kept = {name: value for name, value in state.items() if "num_batches" not in name}
    torch.save(kept, tmp_path / "old.pth")
    build_network("resnet18", read_checkpoint(tmp_path / "old.pth"), "small")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_never_run(tmp_path: Path, zipped: bool):
    """In PyTorch's own format, and in a bare pickle."""
    path, trap = tmp_path / "bad.pth", tmp_path / "trap"
    content = {"conv1.weight": Malicious(trap)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(WeightsError, match="could run code") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert not trap.exists()


def test_truncated_files_are_refused(tmp_path: Path):
    """Of both formats."""
    save_checkpoint(random_network(), tmp_path / "net.pth")
    save_file(random_network().state_dict(), tmp_path / "net.safetensors")
    for path in (tmp_path / "net.pth", tmp_path / "net.safetensors"):
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(WeightsError, match=path.name):
            read_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3, "state_dict": {}}, torch.zeros(2), {}])
def test_other_contents_are_refused(tmp_path: Path, content: object):
    """The keys that are there are named."""
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="has no named tensors") as caught:
        read_checkpoint(tmp_path / "other.pth")
    wanted = "the keys epoch, state_dict" if isinstance(content, dict) and content else ", but "
    assert wanted in str(caught.value)


STATE = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}
OTHER = {name: value + 1 for name, value in STATE.items()}
AVERAGED = {"n_averaged": torch.tensor(3)} | {f"module.{n}": v for n, v in STATE.items()}


@pytest.mark.parametrize(
    ("content", "entry"),
    [
        pytest.param({"state_dict": STATE, "epoch": 3}, "state_dict", id="most trainers"),
        pytest.param({"model": STATE, "optimizer": {"lr": 0.1}}, "model", id="torchvision"),
        pytest.param({"model": OTHER, "model_ema": AVERAGED}, "model_ema", id="averaged"),
        pytest.param({"state_dict": OTHER, "state_dict_ema": STATE, "arch": "resnet50"},
                     "state_dict_ema", id="timm"),
        pytest.param({"model": STATE, "args": argparse.Namespace(lr=0.1)}, "model",
                     id="a command line beside it"),
        pytest.param({"model": {"state_dict": STATE, "version": 1}}, "model.state_dict",
                     id="nested"),
        pytest.param({f"module.{n}": v for n, v in STATE.items()}, "", id="DataParallel"),
        pytest.param({f"_orig_mod.module.{n}": v for n, v in STATE.items()}, "",
                     id="compiled DataParallel"),
        pytest.param({"state_dict": {f"model.{n}": v for n, v in STATE.items()}}, "state_dict",
                     id="Lightning"),
    ],
)  # fmt: skip
def test_what_trainers_wrap_around_parameters_is_taken_off(tmp_path: Path, content, entry: str):
    torch.save(content, tmp_path / "net.pth")
    checkpoint = read_checkpoint(tmp_path / "net.pth")
    assert checkpoint.entry == entry
    assert {name: value.tolist() for name, value in checkpoint.state.items()} == {
        name: value.tolist() for name, value in STATE.items()
    }


def test_a_prefix_that_only_some_names_have_is_theirs(tmp_path: Path):
    torch.save({"model.weight": torch.ones(1), "weight": torch.ones(1)}, tmp_path / "net.pth")
    assert set(read_checkpoint(tmp_path / "net.pth").state) == {"model.weight", "weight"}


def test_an_entry_can_be_asked_for(tmp_path: Path):
    torch.save({"model": STATE, "model_ema": AVERAGED, "teacher": OTHER}, tmp_path / "net.pth")
    checkpoint = read_checkpoint(tmp_path / "net.pth", "teacher")
    assert checkpoint.entry == "teacher"
    assert torch.equal(checkpoint.state["fc.bias"], OTHER["fc.bias"])
    with pytest.raises(WeightsError, match="no named tensors as its entry student, but the keys"):
        read_checkpoint(tmp_path / "net.pth", "student")


@pytest.mark.parametrize("name", ["missing.pth", "notes.txt"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str):
    """A missing file, and another kind of file."""
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(WeightsError, match=name):
        read_checkpoint(tmp_path / name)


def test_another_stem_is_refused(tmp_path: Path):
    """The first convolution's shapes are said."""
    path = save_checkpoint(random_network(), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"conv1.weight 8x3x7x7  conv1.weight 8x3x3x3"):
        build_network("resnet18", read_checkpoint(path), "imagenet")
