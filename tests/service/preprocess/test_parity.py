"""The built-in model sees what it was measured on: a plain Pillow pipeline gives the same answers.

`plain_pixels` is that pipeline: turn, RGB, resize the short side, crop the middle, in plain steps.
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from images import encode, photo, plain_pixels
from PIL import Image, ImageOps

from service.contract import ModelContract, parse_contract
from service.engine.base import Engine, probabilities
from service.engine.onnx import load_engine
from service.models.files import builtin_file
from service.preprocess.decode import DecodePolicy, decode

ORIENTATION, TURNED_RIGHT = 0x0112, 6
DRAFT_RATIO = 4
"""The default of `jpeg_draft_ratio`."""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return load_engine(builtin_file().path, provider="cpu", intra_op_threads=1)


@pytest.fixture(scope="module")
def contract(engine) -> ModelContract:
    return parse_contract(engine.metadata, file="built-in model")


def plainly(data: bytes, contract: ModelContract) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    preprocessing = contract.preprocessing
    assert preprocessing.interpolation == "bilinear"
    return plain_pixels(upright, preprocessing.resize_to[0], preprocessing.input_size[0])


def served(data: bytes, contract: ModelContract, draft_ratio: float = 0) -> np.ndarray:
    return decode(data, contract.preprocessing, DecodePolicy(50_000_000, draft_ratio)).pixels


def turned(image: Image.Image, **options) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED_RIGHT
    return encode(image, exif=exif, **options)


def report(worst: float) -> None:
    """Shown by `pytest -rP`."""
    print(f"largest difference of a probability: {worst:.2e}")  # noqa: T201


PHOTOS = {
    "jpeg": lambda image: encode(image, "JPEG", quality=88),
    "turned jpeg": lambda image: turned(image, image_format="JPEG", quality=88),
    "webp": lambda image: encode(image, "WEBP", quality=85),
    "turned png": lambda image: turned(image, image_format="PNG"),
}


@pytest.mark.parametrize("kind", PHOTOS)
def test_probabilities_are_those_of_the_plain_pipeline(engine, contract, kind):
    """Within 1e-3, on images of a photo's size and of odd ones."""
    photos = [
        PHOTOS[kind](photo(*size, seed=seed))
        for seed, size in enumerate([(500, 375), (375, 500), (333, 500), (640, 217), (100, 90)])
    ]
    expected = probabilities(engine, [plainly(data, contract) for data in photos])
    answers = probabilities(engine, [served(data, contract) for data in photos])
    worst = float(np.abs(answers - expected).max())
    report(worst)
    assert worst < 1e-3
    assert np.array_equal(answers.argmax(axis=1), expected.argmax(axis=1))


def test_a_photo_of_common_size_is_decoded_whole(contract):
    """The default ratio leaves 500 x 375 pixels alone at the built-in model's 64."""
    for seed in range(2):
        data = encode(photo(500, 375, seed), "JPEG")
        assert np.array_equal(
            served(data, contract, DRAFT_RATIO), served(data, contract, draft_ratio=0)
        )


@pytest.mark.parametrize("seed", [0, 2, 4])
@pytest.mark.parametrize("turn", [encode, turned])
def test_a_large_jpeg_decoded_at_reduced_size_keeps_its_top_label(engine, contract, seed, turn):
    """And no probability moves by more than 0.03; 40 real photos enlarged moved by up to 0.02."""
    data = turn(photo(2051, 1537, seed), image_format="JPEG", quality=90)
    expected = probabilities(engine, [plainly(data, contract)])[0]
    reduced = probabilities(engine, [served(data, contract, DRAFT_RATIO)])[0]
    worst = float(np.abs(reduced - expected).max())
    report(worst)
    assert worst > 0, "it was decoded at reduced size"
    assert worst < 0.03
    assert reduced.argmax() == expected.argmax()
