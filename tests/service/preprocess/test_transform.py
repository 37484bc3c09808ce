"""Resize and crop: the part of the image that the model sees, and its pixels.

Most of this is about the one boxed resize; `test_fits.py` is about resizing and cropping apart.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import plain_pixels, smooth
from PIL import Image

from service.contract import Preprocessing
from service.preprocess.transform import resized_size, short_side_size, source_box, transform

bounded = settings(max_examples=400)

RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def rule(resize: int, crop: int, interpolation: str = "bilinear") -> Preprocessing:
    return Preprocessing(
        resize=resize, crop=crop, interpolation=interpolation, mean=(0, 0, 0), std=(1, 1, 1)
    )


@st.composite
def rules(draw, largest: int) -> Preprocessing:
    resize = draw(st.integers(1, largest))
    return rule(resize, draw(st.integers(1, resize)), draw(st.sampled_from(sorted(RESAMPLING))))


sides = st.integers(1, 20_000) | st.sampled_from([1, 2, 3, 224, 225, 20_000])


@given(width=sides, height=sides, preprocessing=rules(largest=1024))
@bounded
def test_the_crop_lies_inside_the_image(width, height, preprocessing):
    """For any size and aspect; Pillow refuses a box that ends a hair outside."""
    left, top, right, bottom = source_box(width, height, preprocessing)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


@given(width=sides, height=sides, preprocessing=rules(largest=1024))
@bounded
def test_the_crop_is_a_centred_square_of_the_resized_image(width, height, preprocessing):
    """As many resized pixels wide as high, and at most half of one off the centre."""
    left, top, right, bottom = source_box(width, height, preprocessing)
    new_width, new_height = resized_size(width, height, preprocessing)
    x, y = width / new_width, height / new_height
    assert (right - left) / x == pytest.approx(preprocessing.crop)
    assert (bottom - top) / y == pytest.approx(preprocessing.crop)
    assert abs((left + right) / 2 - width / 2) <= x * 0.5001
    assert abs((top + bottom) / 2 - height / 2) <= y * 0.5001


@given(width=sides, height=sides, short_side=st.integers(1, 1024))
@bounded
def test_the_short_side_becomes_the_asked_and_the_long_side_is_rounded_down(
    width, height, short_side
):
    new = short_side_size(width, height, short_side)
    assert min(new) == short_side
    exact = short_side * max(width, height) / min(width, height)
    assert exact - 1 < max(new) <= exact
    assert short_side_size(height, width, short_side) == new[::-1]


@given(
    width=st.integers(1, 320),
    height=st.integers(1, 320),
    preprocessing=rules(largest=96),
    seed=st.integers(0, 99),
)
@bounded
def test_the_pixels_are_those_of_resizing_and_then_cropping(width, height, preprocessing, seed):
    """Torchvision's rule in two plain steps gives the same image, but for rounding.

    A box filter takes a source pixel or leaves it; at a tie rounding makes that its neighbour.
    """
    image = smooth(width, height, seed)
    allowed = 2 + (steepest(image) if preprocessing.interpolation == "box" else 0)
    expected = plain_pixels(
        image, preprocessing.resize, preprocessing.crop, RESAMPLING[preprocessing.interpolation]
    )
    pixels = transform(image, preprocessing)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (preprocessing.crop, preprocessing.crop, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= allowed


def steepest(image: Image.Image) -> int:
    """The largest step between two neighbouring pixels."""
    pixels = np.asarray(image).astype(int)
    return max(np.abs(np.diff(pixels, axis=axis)).max(initial=0) for axis in (0, 1))


@pytest.mark.parametrize("size", [(8, 8), (224, 224)])
def test_an_image_of_the_models_size_is_passed_on_as_it_is(size):
    image = smooth(*size)
    assert np.array_equal(transform(image, rule(size[0], size[0])), np.asarray(image))


@pytest.mark.parametrize("upright", [True, False])
def test_an_extreme_strip_needs_no_huge_intermediate(upright):
    """Resized whole, 1 x 20,000 pixels would become 1024 x 20,480,000: 80 GB."""
    ramp = np.linspace(0, 255, 20_000).astype(np.uint8).reshape(-1, 1)
    strip = Image.fromarray(ramp if upright else ramp.T).convert("RGB")
    pixels = transform(strip, rule(1024, 1024))
    assert pixels.shape == (1024, 1024, 3)
    assert set(np.unique(pixels)) <= {126, 127, 128}, "the middle of the ramp"


@pytest.mark.parametrize("side", [250, 248])
def test_an_image_decoded_at_reduced_size_gives_the_crop_of_its_real_size(side):
    """The last pixel of a reduced row shows less than the others, and that shifts nothing."""
    ramp = np.arange(side)
    reduced = np.arange(4, side + 4, 8)  # each the middle of eight
    expected = transform(grey(ramp), rule(16, 16))
    pixels = transform(grey(reduced), rule(16, 16), (side, side), (0, 0, side / 8, side / 8))
    assert np.abs(pixels.astype(int) - expected)[1:-1, 1:-1].max() <= 1


def grey(row: np.ndarray) -> Image.Image:
    """A square image of equal rows."""
    return Image.fromarray(np.tile(row.astype(np.uint8), (len(row), 1))).convert("RGB")
