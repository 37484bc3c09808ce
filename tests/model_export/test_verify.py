"""A file that does not compute what PyTorch does is found out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from exports import exported
from networks import MEAN, STD, preprocessing, random_network

from model_export.errors import ParityError
from model_export.graph import prepare
from model_export.options import Storage
from model_export.reference import references
from model_export.verify import batch_sizes, measure_parity
from service.contract import Preprocessing

SIDE = 32
IMAGES = preprocessing(SIDE)


@pytest.fixture
def write(shared: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a network's file."""

    def write(network: torch.nn.Module, storage: Storage = "fp32") -> Path:
        served = prepare(network, IMAGES, storage)
        onnx.save(exported(shared, served, (SIDE, SIDE), storage), tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


def parity(
    path: Path, network: torch.nn.Module, storage: Storage = "fp32", largest: int = 5,
    images: Preprocessing = IMAGES,
):  # fmt: skip
    served = prepare(network, images, storage)
    pytorch = references(network, served, images, storage)
    return measure_parity(path, pytorch, storage, size=(SIDE, SIDE), largest_batch=largest)


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, (1,)), (2, (1, 2)), (5, (1, 2, 5)), (32, (1, 2, 5, 32))]
)
def test_batch_sizes_end_with_the_largest(largest: int, sizes: tuple[int, ...]):
    """1, 2, 5 and the largest."""
    assert batch_sizes(largest) == sizes


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_a_good_file_is_measured(write: Callable[..., Path], architecture: str):
    """Every image of every batch counts."""
    network = random_network(architecture)
    measured = parity(write(network), network, largest=8)
    assert 0 < measured.max_abs_diff < 1e-5
    assert measured.top1_agreement == 1
    assert measured.images == 1 + 2 + 5 + 8
    assert measured.batch_sizes == (1, 2, 5, 8)


def test_float16_storage_is_measured_against_the_trained_weights(write: Callable[..., Path]):
    """So the contract says what rounding costs."""
    network = random_network()
    measured = parity(write(network, storage="fp16"), network, "fp16")
    assert 1e-5 < measured.max_abs_diff < 2e-2


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": MEAN[::-1], "std": STD[::-1]},
        {"std": (0.5, 0.5, 0.5)},
        {"mean": (0.0, 0.0, 0.0)},
    ],
    ids=["colours swapped", "another std", "no mean"],
)
def test_wrong_preprocessing_is_found(write: Callable[..., Path], changes: dict):
    """The usual mistakes are far over the limits."""
    network = random_network()
    images = IMAGES.model_copy(update=changes)
    with pytest.raises(ParityError, match=r"differs from PyTorch's by .* is allowed"):
        parity(write(network), network, images=images)


def test_a_wrong_embedding_is_found_behind_right_probabilities(write: Callable[..., Path]):
    """With zero weights in the classifier the probabilities say nothing."""
    network = random_network(depths=(1, 1, 1, 1))
    torch.nn.init.zeros_(network.fc.weight)
    path = write(network)
    torch.nn.init.constant_(network.layer4[0].bn2.bias, 0.5)
    with pytest.raises(ParityError, match=r"the file's (embedding|features) differs"):
        parity(path, network)


def test_another_size_is_found(write: Callable[..., Path]):
    """Shapes are compared before values."""
    path = write(random_network(classes=5))
    with pytest.raises(ParityError, match="shape"):
        parity(path, random_network(classes=6))


def test_weights_that_do_not_bear_rounding_are_found(write: Callable[..., Path]):
    """All that tells the classes apart here is lost in float16."""
    network = random_network()
    with torch.no_grad():
        network.fc.weight.copy_(100 + 0.02 * torch.randn_like(network.fc.weight))
    path = write(network, storage="fp16")
    with pytest.raises(ParityError, match="differs from PyTorch's"):
        parity(path, network, "fp16")


def test_weights_that_answer_nan_are_found(write: Callable[..., Path]):
    """Rather than compared, since NaN agrees with nothing."""
    network = random_network()
    path = write(network)
    with torch.no_grad():
        network.layer1[0].conv1.weight[0, 0] = float("nan")
    with pytest.raises(ParityError, match="not finite"):
        parity(path, network)


def test_a_file_that_answers_nan_is_found(write: Callable[..., Path]):
    """A comparison with NaN is false, and must not pass for agreement."""
    network = random_network()
    path = write(network)
    model = onnx.load(path)
    bias = next(value for value in model.graph.initializer if value.name == "network.fc.bias")
    bias.raw_data = np.array([np.nan, 0, 0, 0, 0], np.float32).tobytes()
    onnx.save(model, path)
    with pytest.raises(ParityError, match="by nan"):
        parity(path, network)
