"""Training begins with trained weights, and says what begins anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import random_network, save_checkpoint

from model_export.checkpoint import Checkpoint, read_checkpoint
from model_export.errors import WeightsError
from model_export.loading import of_architecture
from model_export.training.backbone import backbone_line, load_backbone

FC = ["fc.weight", "fc.bias"]


def changed(path: Path, **values: object) -> Checkpoint:
    """A resnet18 of 5 classes with other values in it; None takes one out."""
    state = random_network().state_dict() | {
        name.replace("__", "."): value for name, value in values.items()
    }
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    return of_architecture("resnet18", read_checkpoint(path))


def test_a_backbone_loads_without_its_classifier(tmp_path: Path):
    """Of other classes; what is left random is named, and nothing else may differ."""
    trained, new = random_network(classes=5), random_network(classes=9)
    torch.nn.init.ones_(trained.conv1.weight)
    random = {name: value.clone() for name, value in new.state_dict().items()}
    checkpoint = read_checkpoint(save_checkpoint(trained, tmp_path / "net.pth"))
    assert load_backbone(new, checkpoint) == ["fc.weight", "fc.bias"]
    state = new.state_dict()
    assert torch.equal(state["fc.weight"], random["fc.weight"])
    assert torch.equal(state["conv1.weight"], trained.state_dict()["conv1.weight"])
    with pytest.raises(WeightsError, match="of another shape"):
        load_backbone(random_network(base_width=16), checkpoint)


def test_a_backbone_of_the_same_classes_loads_whole(tmp_path: Path):
    checkpoint = read_checkpoint(save_checkpoint(random_network(), tmp_path / "net.pth"))
    network = random_network()
    torch.nn.init.zeros_(network.fc.weight)
    assert load_backbone(network, checkpoint) == []
    assert network.fc.weight.abs().max() > 0


def test_a_missing_classifier_begins_anew(tmp_path: Path):
    """As of a network that was trained without labels."""
    network = random_network()
    torch.nn.init.zeros_(network.conv1.weight)
    checkpoint = changed(tmp_path / "net.pth", fc__weight=None, fc__bias=None)
    assert load_backbone(network, checkpoint) == FC
    assert network.conv1.weight.abs().max() > 0
    assert backbone_line(network, checkpoint, FC).endswith(
        "net.pth; initialised randomly: fc.weight, fc.bias, since it has no classifier"
    )


@pytest.mark.parametrize("name", FC)
@pytest.mark.parametrize(
    ("value", "told"),
    [
        (3, r"a number \(3\)"),
        ("x", "a text"),
        ([1.0], "a list"),
        (torch.ones(5, dtype=torch.int8), "a tensor of int8 with an unknown scale"),
        (torch.eye(5).to_sparse(), "a sparse tensor"),
    ],
)
def test_odd_values_in_the_classifiers_place_are_named(
    tmp_path: Path, name: str, value: object, told: str
):
    """They are no classifier that begins anew, but a mistake."""
    checkpoint = changed(tmp_path / "net.pth", **{name.replace(".", "__"): value})
    with pytest.raises(WeightsError, match=rf"{name} is {told}[,;].* must be plain tensors"):
        load_backbone(random_network(), checkpoint)


@pytest.mark.parametrize(
    ("head", "classes", "told"),
    [
        ("fc", 5, "nothing; its classifier fc is loaded too"),
        ("head.fc", 5, "nothing; its classifier head.fc is loaded too"),
        ("fc", 9, "fc.weight, fc.bias, since its classifier fc has 5 classes, not 9"),
        ("head.fc", 9, "fc.weight, fc.bias, since its classifier head.fc has 5 classes, not 9"),
    ],
)
def test_the_classifier_that_was_taken_is_named(tmp_path: Path, head: str, classes: int, told: str):
    """And whether it goes on."""
    layer = {f"{head}__{leaf}": getattr(random_network().fc, leaf) for leaf in ("weight", "bias")}
    checkpoint = changed(tmp_path / "net.pth", **{"fc__weight": None, "fc__bias": None} | layer)
    network = random_network(classes=classes)
    left = load_backbone(network, checkpoint)
    assert backbone_line(network, checkpoint, left).endswith(f"initialised randomly: {told}")


def test_a_classifier_of_another_form_begins_anew(tmp_path: Path):
    checkpoint = changed(tmp_path / "net.pth", fc__weight=torch.ones(5, 9))
    network = random_network()
    left = load_backbone(network, checkpoint)
    assert backbone_line(network, checkpoint, left).endswith(
        "since its classifier fc has another shape"
    )
