"""The model file that comes with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model_export.golden_cases import golden_photo
from model_export.model_file import read_model
from service.contract import ModelContract
from service.engine.base import Engine, probabilities
from service.engine.onnx import load_engine
from service.golden import PHOTO_DRIFT, check_golden
from service.preprocess.decode import DecodePolicy, decode

EXACT = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)


@pytest.fixture(scope="module")
def file() -> Path:
    return Path(str(resources.files("service") / "builtin" / "slim-resnet50.onnx"))


@pytest.fixture(scope="module")
def contract(file: Path) -> ModelContract:
    return read_model(file)[1]


@pytest.fixture(scope="module")
def engine(file: Path) -> Engine:
    return load_engine(file, provider="cpu")


def test_it_states_what_it_is(file: Path, contract: ModelContract):
    """Small, measured on all validation images, and with no trace of a machine."""
    assert file.stat().st_size < 13_000_000
    assert (contract.name, contract.storage, len(contract.labels)) == ("slim-resnet50", "fp16", 200)
    assert contract.accuracy is not None
    assert contract.accuracy.images == 10_000
    assert contract.accuracy.top1 == pytest.approx(0.6073, abs=0.001)
    content = file.read_bytes()
    for trace in (b"/work", b"/root", b"/home", b"/tmp", b"site-packages"):
        assert trace not in content


@pytest.mark.parametrize("batch", [1, 4])
def test_it_agrees_with_its_golden_cases(engine: Engine, contract: ModelContract, batch: int):
    """On this machine's CPU and with this Pillow."""
    report = check_golden(engine, contract, batch)
    assert report.failures == report.warnings == ()


@pytest.mark.parametrize("mistake", ["colours", "exif", "resize"])
def test_its_photo_finds_wrong_preprocessing(engine: Engine, contract: ModelContract, mistake: str):
    """Also where the drift of another decoder is allowed."""
    right = contract.preprocessing
    changes: dict[str, dict[str, Any]] = {"exif": {"exif": "ignore"}, "resize": {"resize": 80}}
    pixels = decode(golden_photo(), right.model_copy(update=changes.get(mistake, {})), EXACT).pixels
    if mistake == "colours":
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    expected = np.array(contract.golden[-1].probabilities, np.float32)
    assert np.abs(probabilities(engine, [pixels])[0] - expected).max() > PHOTO_DRIFT
