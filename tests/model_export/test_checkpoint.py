"""Checkpoints load without running code, and into the network that they are of."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from networks import random_network, save_checkpoint
from safetensors.torch import save_file

from model_export.checkpoint import build_network, read_checkpoint, stem_of
from model_export.errors import WeightsError
from model_export.files import sha256_of


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
    assert stem_of(checkpoint) == "small"
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


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3, "state_dict": {}}, torch.zeros(2)])
def test_other_contents_are_refused(tmp_path: Path, content: object):
    """The keys that are there are named."""
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="must hold named tensors") as caught:
        read_checkpoint(tmp_path / "other.pth")
    assert isinstance(content, dict) == ("epoch, state_dict" in str(caught.value))


@pytest.mark.parametrize("name", ["missing.pth", "notes.txt"])
def test_what_is_no_checkpoint_is_refused(tmp_path: Path, name: str):
    """A missing file, and another kind of file."""
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(WeightsError, match=name):
        read_checkpoint(tmp_path / name)


def test_another_networks_checkpoint_is_refused_by_name(tmp_path: Path):
    """Missing, unexpected and misshapen parameters, a few of each, in one line."""
    path = save_checkpoint(random_network("resnet50"), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="does not fit resnet18") as caught:
        build_network("resnet18", read_checkpoint(path), "small")
    message = str(caught.value)
    assert "unexpected (layer1.0.conv3.weight, " in message
    assert "layer1.0.conv1.weight 8x8x1x1 for 8x8x3x3" in message
    assert ", and 1" in message
    assert "\n" not in message


def test_another_stem_is_refused(tmp_path: Path):
    """The first convolution's shapes are said."""
    path = save_checkpoint(random_network(), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"conv1.weight 8x3x3x3 for 8x3x7x7"):
        build_network("resnet18", read_checkpoint(path), "imagenet")


def test_missing_parameters_are_named(tmp_path: Path):
    """A backbone without its classifier."""
    state = random_network().state_dict()
    del state["fc.weight"], state["fc.bias"]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"2 missing \(fc.weight, fc.bias\)"):
        build_network("resnet18", read_checkpoint(tmp_path / "net.pth"), "small")
