"""Parameters find their network, or it is said why not."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import random_network, save_checkpoint

from model_export.checkpoint import Checkpoint, read_checkpoint
from model_export.errors import WeightsError
from model_export.loading import build_network, load, of_architecture


@pytest.mark.parametrize(
    ("name", "width", "stem"),
    [("resnet18", 8, "small"), ("resnet18d", 8, None), ("densenet121", 8, None),
     ("alexnet", 8, None), ("mobilenet_v2", 8, None), ("mobilenet_v3_large", 24, None),
     ("resnest101e", 16, None), ("seresnet50", 16, "small"), ("wide_resnet50_2", 8, None)],
)  # fmt: skip
def test_width_classes_and_stem_are_those_of_the_file(tmp_path: Path, name, width, stem):
    side = 224 if name == "alexnet" else 64
    network = random_network(name, classes=6, base_width=width, stem=stem, side=side)
    loaded = build_network(name, read_checkpoint(save_checkpoint(network, tmp_path / "net.pth")))
    image = torch.randn(2, 3, side, side)
    with torch.inference_mode():
        assert torch.equal(loaded(image), network(image))


def test_densenets_of_old_files_load(tmp_path: Path):
    """Torchvision's official ones name `norm.1` what is `norm1` now."""
    network = random_network("densenet121", stem=None, side=64)
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): value
        for name, value in network.state_dict().items()
    }
    assert any(".norm.1." in name for name in old)
    torch.save(old, tmp_path / "old.pth")
    loaded = build_network(
        "densenet121", of_architecture("densenet121", read_checkpoint(tmp_path / "old.pth"))
    )
    for name, value in network.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(loaded.state_dict()[name], value)


def odd_values() -> dict[str, tuple[object, str]]:
    """What may stand for a weight in a file and can't be one, and how it is called."""
    weight = random_network().state_dict()["fc.weight"]
    return {
        "sparse": (weight.to_sparse(), "is a sparse tensor"),
        "compressed": (weight.to_sparse_csr(), "is a sparse tensor"),
        "meta": (weight.to("meta"), "is a meta tensor, which has no values"),
        "quantised": (quantised(weight), r"is a quantised tensor \(qint8\)"),
        "integers": (
            (weight * 100).to(torch.int8),
            "is a tensor of int8 with an unknown scale",
        ),
        "eight bits": (
            weight.to(torch.float8_e4m3fn),
            "is a tensor of float8_e4m3fn with an unknown scale",
        ),
        "boolean": (weight > 0, "is a boolean tensor"),
        "complex": (weight.to(torch.complex64), r"is a complex tensor \(complex64\)"),
        "nested": (torch.nested.nested_tensor([*weight]), "is a nested tensor"),
        "array": (weight.numpy(), "is a NumPy array"),
        "number": (3.5, r"is a number \(3.5\)"),
        "NumPy number": (np.float64(3.5), "is a NumPy number"),
        "path": (Path("weights"), r"is a path \(PosixPath\)"),
        "text": ("weights", "is a text"),
    }


def quantised(weight: torch.Tensor) -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):  # that PyTorch gives them up
        return torch.quantize_per_tensor(weight, 0.01, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:Sparse CSR:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested:UserWarning")
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated:UserWarning")
@pytest.mark.parametrize(
    "kind",
    ["sparse", "compressed", "meta", "quantised", "integers", "eight bits", "boolean", "complex",
     "nested", "array", "number", "NumPy number", "path", "text"],
)  # fmt: skip
def test_what_is_no_plain_tensor_of_floats_is_called_by_its_name(tmp_path: Path, kind: str):
    """In one line, and nothing is loaded of it."""
    value, told = odd_values()[kind]
    torch.save(random_network().state_dict() | {"fc.weight": value}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=f"does not fit resnet18: fc.weight {told}") as caught:
        build_network(
            "resnet18", of_architecture("resnet18", read_checkpoint(tmp_path / "net.pth")), "small"
        )
    assert "\n" not in str(caught.value)


def test_another_networks_parameters_are_shown_side_by_side(tmp_path: Path):
    """Shapes first, then what is missing beside what is unexpected; the rest is counted."""
    path = save_checkpoint(random_network("resnet50"), tmp_path / "net.pth")
    with pytest.raises(WeightsError, match="does not fit resnet18") as caught:
        build_network("resnet18", read_checkpoint(path), "small")
    first, header, *rows, last = str(caught.value).splitlines()
    assert re.search(r"does not fit resnet18: \d+ unexpected, \d+ of another shape$", first)
    assert header.split() == ["the", "network's", "the", "file's"]
    assert rows[0].split() == [
        "layer1.0.conv1.weight", "8x8x3x3", "layer1.0.conv1.weight", "8x8x1x1",
    ]  # fmt: skip
    assert len(rows) == 12
    assert re.fullmatch(r"  \.\.\. and \d+ more", last)


def headless(path: Path, others: dict) -> Checkpoint:
    """A resnet18 with other layers in the place of its last."""
    state = random_network().state_dict()
    del state["fc.weight"], state["fc.bias"]
    torch.save(state | others, path)
    return of_architecture("resnet18", read_checkpoint(path))


def test_a_classifier_of_several_layers_is_named_as_the_cause(tmp_path: Path):
    """The number of classes is not known without the network's own."""
    layers = {"head.0.weight": torch.ones(9, 64), "head.1.weight": torch.ones(5, 9)}
    with pytest.raises(WeightsError, match="2 missing, 2 unexpected; only") as caught:
        build_network("resnet18", headless(tmp_path / "net.pth", layers), "small")
    first, _, *rows = str(caught.value).splitlines()
    assert "only a single linear layer with weight [C, 64] and bias [C] can replace fc" in first
    assert [line.split() for line in rows] == [
        ["fc.weight", "Cx64", "head.0.weight", "9x64"],
        ["fc.bias", "C", "head.1.weight", "5x9"],
    ]


def test_a_classifier_of_another_name_is_loaded(tmp_path: Path):
    """Its classes are the network's; of another number of features it is refused."""
    network = random_network()
    layer = {"head.fc.weight": network.fc.weight + 1, "head.fc.bias": network.fc.bias}
    loaded: Any = build_network("resnet18", headless(tmp_path / "net.pth", layer), "small")
    assert torch.equal(loaded.fc.weight, layer["head.fc.weight"])
    layer["head.fc.weight"] = torch.ones(5, 9)
    with pytest.raises(WeightsError, match=r"fc\.weight Cx64  head\.fc\.weight 5x9"):
        build_network("resnet18", headless(tmp_path / "net.pth", layer), "small")


def test_a_missing_classifier_is_named_as_the_cause(tmp_path: Path):
    """As of a network that was trained without labels."""
    checkpoint = headless(tmp_path / "net.pth", {})
    with pytest.raises(WeightsError, match="2 missing; it has no fc, the classifier") as caught:
        build_network("resnet18", checkpoint, "small")
    assert "1000" not in str(caught.value)


class Counting(torch.nn.Linear):
    """A module that keeps what is no tensor."""

    seen = 0

    def get_extra_state(self) -> dict:
        return {"seen": self.seen}

    def set_extra_state(self, state: dict) -> None:
        self.seen = state["seen"]


def test_a_module_may_keep_what_is_no_tensor():
    """It gets its own back; other tensors of it are compared as ever."""
    network, state = Counting(2, 2), Counting(2, 2).state_dict() | {"_extra_state": {"seen": 7}}
    load(network, state, "net.pth: does not fit")
    assert network.seen == 7
    with pytest.raises(WeightsError, match="1 of another shape"):
        load(network, state | {"bias": torch.ones(3)}, "net.pth: does not fit")
