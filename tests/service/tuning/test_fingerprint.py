"""What measurements depend on: each of it makes another key."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from service.engine.providers import CPU, CUDA, OPENVINO
from service.tuning import fingerprint as fingerprint_module
from service.tuning.fingerprint import fingerprint_of


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    return path


def test_they_are_the_file_the_device_and_the_software(path):
    fingerprint = fingerprint_of(path, CPU, max_batch=8)
    assert fingerprint is not None
    assert fingerprint["model_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert fingerprint["runtime"].startswith("onnxruntime ")
    assert fingerprint["max_batch"] == 8
    assert fingerprint == fingerprint_of(path, CPU, max_batch=8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu_count", lambda: 99),
        ("__version__", "99"),
    ],
)
def test_another_machine_or_software_is_another_fact(path, monkeypatch, name, value):
    before = fingerprint_of(path, CPU)
    monkeypatch.setattr(fingerprint_module, name, value)
    assert fingerprint_of(path, CPU) != before


def test_another_release_of_what_computes_is_another_fact(path):
    before = fingerprint_of(path, CPU)
    assert fingerprint_of(path, replace(CPU, version=lambda: "onnxruntime 99")) != before


@pytest.mark.openvino
def test_the_release_that_counts_is_that_of_the_library_that_computes(path):
    openvino = fingerprint_of(path, OPENVINO)
    assert openvino is not None
    assert openvino["runtime"].startswith("openvino ")


@pytest.mark.skipif(OPENVINO.is_installed(), reason="has OpenVINO")
def test_a_library_that_is_missing_is_no_fact(path):
    """So that it is missed where it is opened, which says how to install it."""
    assert fingerprint_of(path, OPENVINO) is None


def test_another_cpu_is_another_fact(path, monkeypatch):
    before = fingerprint_of(path, CPU)
    monkeypatch.setattr("service.engine.providers.cpu_model", lambda: "another CPU")
    assert fingerprint_of(path, CPU) != before


def test_a_file_is_known_by_its_content_and_not_by_its_name(path, tmp_path):
    before = fingerprint_of(path, CPU)
    other = path.rename(tmp_path / "other.onnx")
    assert fingerprint_of(other, CPU) == before
    other.write_bytes(b"other weights")
    assert fingerprint_of(other, CPU) != before


def test_a_gpu_is_known_by_its_name(path):
    """And one without a name could be any."""
    cuda = replace(CUDA, device_name=["NVIDIA A10", None].__getitem__)
    fingerprint = fingerprint_of(path, cuda, device_id=0)
    assert fingerprint is not None
    assert (fingerprint["provider"], fingerprint["device"]) == ("cuda", "NVIDIA A10")
    assert fingerprint_of(path, cuda, device_id=1) is None


def test_a_file_that_is_gone_has_none(path):
    path.unlink()
    assert fingerprint_of(path, CPU) is None
