"""A file that does not compute what PyTorch does is found out."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from networks import MEAN, STD, preprocessing, random_network

from model_export.errors import ParityError
from model_export.graph import prepare, to_onnx
from model_export.reference import references
from model_export.verify import SAME_WEIGHTS, batch_sizes, compare, measure_parity
from service.contract import Preprocessing

SIDE = 32


def write(
    folder: Path, network: torch.nn.Module, images: Preprocessing, storage: str = "fp32"
) -> Path:
    path = folder / "model.onnx"
    onnx.save(to_onnx(prepare(network, images, storage), SIDE, storage), path)
    return path


def parity(path: Path, network: torch.nn.Module, storage: str = "fp32", largest: int = 5):
    served = prepare(network, preprocessing(SIDE), storage)
    pytorch = references(network, served, preprocessing(SIDE), storage)
    return measure_parity(path, pytorch, storage, side=SIDE, largest_batch=largest)


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, (1,)), (2, (1, 2)), (5, (1, 2, 5)), (32, (1, 2, 5, 32))]
)
def test_batch_sizes_end_with_the_largest(largest: int, sizes: tuple[int, ...]):
    """1, 2, 5 and the largest."""
    assert batch_sizes(largest) == sizes


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50"])
def test_a_good_file_is_measured(tmp_path: Path, architecture: str):
    """Every image of every batch counts."""
    network = random_network(architecture)
    measured = parity(write(tmp_path, network, preprocessing(SIDE)), network, largest=8)
    assert 0 < measured.max_abs_diff < 1e-5
    assert measured.top1_agreement == 1
    assert measured.images == 1 + 2 + 5 + 8
    assert measured.batch_sizes == (1, 2, 5, 8)


def test_float16_storage_is_measured_against_the_trained_weights(tmp_path: Path):
    """So the contract says what rounding costs."""
    network = random_network()
    measured = parity(write(tmp_path, network, preprocessing(SIDE), "fp16"), network, "fp16")
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
def test_wrong_preprocessing_is_found(tmp_path: Path, changes: dict):
    """The usual mistakes are far over the limits."""
    network = random_network()
    path = write(tmp_path, network, preprocessing(SIDE).model_copy(update=changes))
    with pytest.raises(ParityError, match=r"differs from PyTorch's by .* is allowed"):
        parity(path, network)


def test_a_wrong_embedding_is_found_behind_right_probabilities(tmp_path: Path):
    """With zero weights in the classifier the probabilities say nothing."""
    network = random_network()
    torch.nn.init.zeros_(network.fc.weight)
    path = write(tmp_path, network, preprocessing(SIDE))
    torch.nn.init.constant_(network.layer4[1].bn2.bias, 0.5)
    with pytest.raises(ParityError, match=r"the file's (embedding|features) differs"):
        parity(path, network)


def test_another_size_is_found(tmp_path: Path):
    """Shapes are compared before values."""
    path = write(tmp_path, random_network(classes=5), preprocessing(SIDE))
    with pytest.raises(ParityError, match="shape"):
        parity(path, random_network(classes=6))


def test_weights_that_do_not_bear_rounding_are_found(tmp_path: Path):
    """All that tells the classes apart here is lost in float16."""
    network = random_network()
    with torch.no_grad():
        network.fc.weight.copy_(100 + 0.02 * torch.randn_like(network.fc.weight))
    path = write(tmp_path, network, preprocessing(SIDE), "fp16")
    with pytest.raises(ParityError, match="differs from PyTorch's"):
        parity(path, network, "fp16")


def test_weights_that_answer_nan_are_found(tmp_path: Path):
    """Rather than compared, since NaN agrees with nothing."""
    network = random_network()
    path = write(tmp_path, network, preprocessing(SIDE))
    with torch.no_grad():
        network.layer1[0].conv1.weight[0, 0] = float("nan")
    with pytest.raises(ParityError, match="not finite"):
        parity(path, network)


def test_a_file_that_answers_nan_is_found(tmp_path: Path):
    """A comparison with NaN is false, and must not pass for agreement."""
    network = random_network()
    served = prepare(network, preprocessing(SIDE), "fp32")
    with torch.no_grad():
        served.network.fc.bias[0] = float("nan")
    onnx.save(to_onnx(served, SIDE), tmp_path / "model.onnx")
    good = references(network, served, preprocessing(SIDE), "fp32").trained
    with pytest.raises(ParityError, match="by nan"):
        compare(tmp_path / "model.onnx", good, SAME_WEIGHTS, side=SIDE, largest_batch=1)
