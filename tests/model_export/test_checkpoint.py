"""Checkpoints load without running code, and into the network that they are of."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_network, save_checkpoint
from safetensors.torch import save_file

from model_export.checkpoint import Checkpoint, read_checkpoint
from model_export.errors import WeightsError
from model_export.loading import build_network, stem_of
from model_export.wrappers import beside_line, head_line, unwrapped
from service.files import sha256_of

STATE = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}
OTHER = {name: value + 1 for name, value in STATE.items()}
AVERAGED = {"n_averaged": torch.tensor(3)} | {f"module.{n}": v for n, v in STATE.items()}


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
    loaded: Any = build_network("resnet50", checkpoint, "small")
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


@pytest.mark.parametrize(
    "beside",
    [
        pytest.param(np.float64(77.1), id="a NumPy number"),
        pytest.param(np.ones(3), id="a NumPy array"),
        pytest.param(Path("/x"), id="a path"),
        pytest.param(argparse.Namespace(output=Path("/x")), id="a command line"),
        pytest.param(collections.defaultdict(list, {"loss": [1.0]}), id="a history"),
        pytest.param(random_network(), id="a network"),
    ],
)
def test_objects_beside_the_parameters_are_passed_over(tmp_path: Path, beside: object):
    """Without making them."""
    torch.save({"state_dict": STATE, "beside": beside}, tmp_path / "net.pth")
    state = read_checkpoint(tmp_path / "net.pth").state
    assert all(torch.equal(state[name], value) for name, value in STATE.items())


class FilledList(list):
    """Pickled as an object that is then appended to."""


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (random_network(), "an object of model_export.architectures.resnet.ResNet, which is not"),
        ({"model": random_network()}, "the keys model (an object of model_export.architectures"),
        ({"model": STATE, "list": FilledList([1])}, "FilledList"),
    ],
)
def test_objects_in_the_parameters_place_are_named(tmp_path: Path, content: object, told: str):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="could run code") as caught:
        read_checkpoint(tmp_path / "net.pth")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("protocol", "told"), [(0, "0 or 1"), (1, "0 or 1"), (2, ""), (3, ""), (4, "4"), (5, "5")]
)
def test_other_pickle_protocols_are_told(tmp_path: Path, zipped: bool, protocol: int, told: str):
    """In the format of today and in the one before it."""
    path = tmp_path / "net.pth"
    torch.save(STATE, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    if not told:
        assert read_checkpoint(path).state.keys() == STATE.keys()
        return
    with pytest.raises(WeightsError, match=rf"has pickle protocol {told}, .* default protocol, 2"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"<html>not found</html>", "is a web page, perhaps a failed download"),
        (b"\x93\x07 nothing known", "is neither safetensors nor from torch.save"),
    ],
)
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "net"])
def test_other_files_are_told(tmp_path: Path, name: str, content: bytes, told: str):
    """By their content; `test_contents` has more of them."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}: {told}"):
        read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    ["last.ckpt", "pytorch_model.bin", "model_best.pth.tar", "net.PTH", "net", "net.safetensors",
     "net.pth", "net.onnx"],
)  # fmt: skip
@pytest.mark.parametrize("save", [torch.save, save_file])
def test_files_are_read_whatever_they_are_called(tmp_path: Path, name: str, save):
    """Trainers have endings of their own, and people rename files."""
    save(STATE, tmp_path / name)
    state = read_checkpoint(tmp_path / name).state
    assert {key: value.tolist() for key, value in state.items()} == {
        key: value.tolist() for key, value in STATE.items()
    }


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
        pytest.param({"model_ema": {"module": STATE, "decay": 0.9}, "model": OTHER},
                     "model_ema.module", id="nested averaged"),
        pytest.param({"ema": {"updates": torch.tensor(3)}, "model": STATE}, "model",
                     id="an average's counters alone"),
        pytest.param({"state_dict": STATE, "lr": torch.tensor([0.1])}, "state_dict",
                     id="a tensor beside the entry"),
        pytest.param({f"module.{n}": v for n, v in STATE.items()}, "", id="DataParallel"),
        pytest.param({f"_orig_mod.module.{n}": v for n, v in STATE.items()}, "",
                     id="compiled DataParallel"),
        pytest.param({"state_dict": {f"model.{n}": v for n, v in STATE.items()}}, "state_dict",
                     id="Lightning"),
    ],
)  # fmt: skip
def test_what_trainers_wrap_around_parameters_is_taken_off(tmp_path: Path, content, entry: str):
    torch.save(content, tmp_path / "net.pth")
    checkpoint = unwrapped(read_checkpoint(tmp_path / "net.pth"), [STATE], three)
    assert checkpoint.entry == entry
    assert {name: value.tolist() for name, value in checkpoint.state.items()} == {
        name: value.tolist() for name, value in STATE.items()
    }


def three(_state: object) -> int:
    """The features that the network's last layer takes."""
    return 3


def under(prefix: str, state: dict | None = None) -> dict:
    return {prefix + name: value for name, value in (state or STATE).items()}


def of_the_network(path: Path, content: object, entry: str | None = None) -> Checkpoint:
    torch.save(content, path)
    return unwrapped(read_checkpoint(path, entry), [STATE], three)


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "_orig_mod.", "backbone.", "model._orig_mod.module.", "my.own."],
)
@pytest.mark.parametrize(
    "beside",
    [
        pytest.param({"criterion.weight": torch.ones(2)}, id="a loss's weights"),
        pytest.param({"class_weights": torch.ones(2)}, id="class weights"),
        pytest.param({"train_acc.tp": torch.zeros(1), "val_f1.fn": torch.ones(1)}, id="metrics"),
        pytest.param({"optimizer.exp_avg": torch.ones(2, 3)}, id="an optimizer's buffers"),
        pytest.param({"n_averaged": torch.tensor(3)}, id="a counter"),
        pytest.param(under("teacher.", OTHER) | {"ema_decay": 0.9}, id="a copy"),
        pytest.param(
            {"model_ema.fcweight": OTHER["fc.weight"], "model_ema.decay": torch.tensor(0.9)},
            id="a copy with names of its own",
        ),
        pytest.param({"epoch": 3, "lr": 0.1, "arch": "resnet18"}, id="no tensors"),
        pytest.param({"best": np.float64(77), "at": Path("runs")}, id="objects"),
    ],
)
def test_names_beside_the_network_stop_no_prefix_from_being_taken_off(
    tmp_path: Path, prefix: str, beside: dict
):
    """They are left out, and told."""
    content = {"state_dict": under(prefix) | beside}
    checkpoint = of_the_network(tmp_path / "net.pth", content)
    assert checkpoint.state.keys() == STATE.keys()
    assert all(torch.equal(checkpoint.state[name], value) for name, value in STATE.items())
    assert set(checkpoint.beside) == set(beside)
    assert f"not part of the network: {next(iter(beside))}" in beside_line(checkpoint)


BODY = {"conv.weight": torch.ones(3, 3), "bn.weight": torch.ones(3)}
NETWORK = [*BODY, "fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("prefix", "head"),
    [("backbone.", "head.fc"), ("encoder.", "classifier"), ("0.", "1.8"), ("", "fc.1"),
     ("", "fc.0"), ("", "head"), ("backbone.", "fc"), ("model.backbone.", "model.fc"),
     ("backbone.", "a.name.of.its.own")],
)  # fmt: skip
def test_a_lone_linear_layer_is_the_classifier(tmp_path: Path, prefix: str, head: str):
    """Whatever it is called, where the network's own is all that is missing; it is said."""
    layer = {f"{head}.weight": STATE["fc.weight"], f"{head}.bias": STATE["fc.bias"]}
    torch.save(under(prefix, BODY) | layer | {"loss.weight": torch.ones(2)}, tmp_path / "net.pth")
    checkpoint = unwrapped(read_checkpoint(tmp_path / "net.pth"), [NETWORK], three)
    assert checkpoint.state.keys() == {*NETWORK}
    assert torch.equal(checkpoint.state["fc.weight"], STATE["fc.weight"])
    assert head_line(checkpoint).endswith(
        f"net.pth: its linear layer {head} is used as the network's last"
    )
    assert checkpoint.beside == ("loss.weight",)


def linear(name: str, weight: torch.Tensor = STATE["fc.weight"]) -> dict:
    return {f"{name}.weight": weight, f"{name}.bias": STATE["fc.bias"]}


@pytest.mark.parametrize(
    "name", ["aux", "aux1.fc", "AuxLogits.fc", "fc_aux", "rotation", "rot_head"]
)
@pytest.mark.parametrize("own", ["head.fc", "fc", None])
def test_classifiers_that_only_help_the_training_are_left_out(
    tmp_path: Path, name: str, own: str | None
):
    """Beside the network's own, whatever that is called, and where it has none."""
    head = linear(own, OTHER["fc.weight"]) if own else {}
    torch.save(under("backbone.", BODY) | linear(name) | head, tmp_path / "net.pth")
    checkpoint = unwrapped(read_checkpoint(tmp_path / "net.pth"), [NETWORK], three)
    assert checkpoint.beside == tuple(linear(name))
    assert checkpoint.head == (own or "")
    assert checkpoint.state.keys() == {*BODY, *(linear("fc") if own else ())}
    assert own is None or torch.equal(checkpoint.state["fc.weight"], OTHER["fc.weight"])


@pytest.mark.parametrize(
    "others",
    [
        pytest.param({"a.weight": torch.ones(2, 3)}, id="no bias"),
        pytest.param(under("a.", {"weight": torch.ones(2, 3), "bias": torch.ones(3)}),
                     id="a bias of another length"),
        pytest.param(under("a.", {"weight": torch.ones(2, 3, 1, 1), "bias": torch.ones(2)}),
                     id="a convolution"),
        pytest.param(under("a.", {"weight": torch.ones(3), "bias": torch.ones(3)}),
                     id="a normalisation"),
        pytest.param({"a.weight": torch.ones(2, 3), "b.bias": torch.ones(2)}, id="of two layers"),
        pytest.param(linear("a", torch.ones(2, 4)), id="of other features"),
        *[pytest.param(linear(name), id=name) for name in
          ("projection", "proj_head", "projector.0", "embedding", "neck.fc", "conv.extra")],
        pytest.param({f"{name}.{leaf}": torch.ones(3, 3)[:, : 3 if leaf == "weight" else 1]
                      for name in ("a", "b") for leaf in ("weight", "bias")}, id="two layers"),
    ],
)  # fmt: skip
def test_what_is_no_lone_linear_layer_is_no_classifier(tmp_path: Path, others: dict):
    torch.save(BODY | others, tmp_path / "net.pth")
    checkpoint = unwrapped(read_checkpoint(tmp_path / "net.pth"), [NETWORK], three)
    assert checkpoint.state.keys() == {*BODY, *others}
    assert (checkpoint.head, head_line(checkpoint)) == ("", "")


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_of_parts_are_taken_off(tmp_path: Path, wrapper: str):
    """As where each block is compiled for itself."""
    content = {name.replace("fc.", f"fc.{wrapper}."): value for name, value in STATE.items()}
    assert of_the_network(tmp_path / "net.pth", content).state.keys() == STATE.keys()


@pytest.mark.parametrize(
    "more",
    [{"head.weight": torch.ones(3, 2)}, {"mean": torch.ones(3)}, {"model.fc.bn": torch.ones(2)}],
)
def test_what_may_be_computed_with_is_not_left_out(tmp_path: Path, more: dict):
    """Another layer or a normalisation would change the answers."""
    checkpoint = of_the_network(tmp_path / "net.pth", under("model.") | more)
    assert checkpoint.beside == ()
    (left,) = checkpoint.state.keys() - STATE.keys()
    assert next(iter(more)).endswith(left)


def test_of_several_networks_one_has_to_be_picked(tmp_path: Path):
    """Unless all but one are by their names copies of it."""
    path, content = tmp_path / "net.pth", under("first.") | under("second.", OTHER)
    with pytest.raises(WeightsError, match=r"several networks, first., second.; --weights-entry"):
        of_the_network(path, content)
    picked = of_the_network(path, content, "second").state
    assert torch.equal(picked["fc.bias"], OTHER["fc.bias"])


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
