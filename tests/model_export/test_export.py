"""From a checkpoint to a verified file in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from digits import ARCHITECTURE, CLASSES, SIDE, TrainedDigits
from full_disk import file_size_limited
from networks import preprocessing, random_network

from model_export.errors import ParityError
from model_export.export import Subject, export
from model_export.graph import to_onnx
from model_export.model_file import read_model
from model_export.options import Storage
from service.contract import Label, ModelContract, Weights
from service.engine.base import probabilities
from service.engine.onnx import load_engine
from service.golden import check_golden


def subject(classes: int = 5, side: int = 32, storage: Storage = "fp32") -> Subject:
    return Subject(
        name="small",
        architecture="resnet18",
        preprocessing=preprocessing(side),
        labels=tuple(Label(id=f"c{i}", label=f"class {i}") for i in range(classes)),
        weights=Weights(source="random", sha256="0" * 64),
        storage=storage,
    )


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where an older file is."""
    (tmp_path / "small.onnx").write_bytes(b"older")
    return tmp_path / "small.onnx"


def assert_untouched(output: Path) -> None:
    assert output.read_bytes() == b"older"
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("storage", ["fp32", "fp16"])
def test_the_file_agrees_with_the_golden_cases_that_it_carries(output: Path, storage: Storage):
    """In the service's engine, at any batch size, in the place of the older file."""
    contract = export(random_network(), subject(storage=storage), output, largest_batch=5)
    assert read_model(output)[1] == contract
    engine = load_engine(output, provider="cpu")
    for batch in (1, 3, 8):
        report = check_golden(engine, contract, batch)
        assert report.failures == report.warnings == ()
        assert report.max_abs_diff < 1e-5
    assert list(output.parent.iterdir()) == [output]


def test_the_contract_states_what_was_measured(output: Path):
    """And which tools were at work."""
    contract = export(random_network(), subject(), output, largest_batch=3)
    assert contract.parity.batch_sizes == (1, 2, 3)
    assert contract.optional_outputs == ("embedding", "features", "classifier_weight")
    assert [case.kind for case in contract.golden] == ["pattern", "pattern", "photo"]
    assert contract.accuracy is None
    assert {"torch", "onnx", "onnxruntime", "pillow"} <= contract.tools.keys()


def test_the_same_network_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So that a file can be traced back."""
    monkeypatch.setattr("model_export.export.to_onnx", to_onnx)  # written anew each time
    files = [tmp_path / "first.onnx", tmp_path / "second.onnx"]
    for file in files:
        network = random_network(depths=(1, 1, 1, 1))
        export(network, subject(storage="fp16"), file, largest_batch=2)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_file_over_the_tolerance_is_not_put_in_place(output: Path):
    """These weights do not bear rounding to float16."""
    network = random_network()
    with torch.no_grad():
        network.fc.weight.copy_(100 + 0.02 * torch.randn_like(network.fc.weight))
    with pytest.raises(ParityError):
        export(network, subject(storage="fp16"), output, largest_batch=2)
    assert_untouched(output)


def test_interruption_leaves_no_file(output: Path, monkeypatch: pytest.MonkeyPatch):
    """Ctrl-C while the written file is being verified."""

    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model_export.export.measure_parity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(random_network(), subject(), output, largest_batch=2)
    assert_untouched(output)


def test_a_full_disk_leaves_no_file(output: Path):
    """The error is the system's."""
    export(random_network(), subject(), output, largest_batch=2)
    output.write_bytes(b"older")
    with file_size_limited(100_000), pytest.raises(OSError, match="too large"):
        export(random_network(), subject(), output, largest_batch=2)
    assert_untouched(output)


def test_a_trained_network_keeps_its_accuracy_to_the_image(tmp_path: Path, digits: TrainedDigits):
    """One trained on handwritten digits: the file's labels are PyTorch's."""
    labels = tuple(Label(id=name, label=name) for name in CLASSES)
    contract = ModelContract.model_validate(
        export(
            digits.network,
            Subject("digits", ARCHITECTURE, preprocessing(SIDE), labels,
                    Weights(source="trained in this test", sha256="0" * 64), "fp32"),
            tmp_path / "digits.onnx",
            largest_batch=8,
        )
    )  # fmt: skip
    assert contract.parity.top1_agreement == 1
    engine = load_engine(tmp_path / "digits.onnx", provider="cpu")
    got = np.concatenate(
        [probabilities(engine, [*part]) for part in np.split(digits.images, 10)]
    ).argmax(axis=1)
    np.testing.assert_array_equal(got, digits.predictions())
    assert np.mean(got == digits.labels) > 0.95
