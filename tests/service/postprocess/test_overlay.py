"""Heat maps drawn over pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from images import photo
from PIL import Image

from service.postprocess.overlay import overlay, png

MAP = np.array([[0, 0], [0, 1]], np.float32)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_it_glows_where_the_map_is_large_and_leaves_the_rest_as_it_is():
    picture = Image.new("RGB", (80, 60), (90, 90, 90))
    drawn = pixels(overlay(picture, MAP, (0, 0, 80, 60)))
    assert np.abs(drawn[5, 5] - 90).max() <= 2
    assert drawn[55, 75].sum() > 3 * 90 + 150
    assert picture.getpixel((75, 55)) == (90, 90, 90), "the picture itself is not changed"


def test_what_lies_outside_the_box_is_shaded():
    drawn = pixels(overlay(Image.new("RGB", (80, 60), "white"), MAP, (20, 0, 60, 60)))
    assert (drawn[30, :20] == drawn[30, 60:]).all()
    assert drawn[30, 5].max() < 150
    assert drawn[5, 25].min() >= 252


def test_an_even_map_draws_nothing():
    picture = photo(40, 30)
    even = np.full((3, 3), 5, np.float32)
    assert np.array_equal(pixels(overlay(picture, even, (0, 0, 40, 30))), pixels(picture))


def test_only_the_part_on_the_picture_is_drawn_however_large_the_box():
    """As where a tall image is filled up to the input of a model for panoramas."""
    picture = photo(60, 40)
    values = np.random.default_rng(1).random((4, 9), np.float32)
    wide = Image.new("RGB", (180, 40))
    wide.paste(picture, (70, 0))
    whole = pixels(overlay(wide, values, (0, 0, 180, 40)))[:, 70:130]
    assert np.abs(pixels(overlay(picture, values, (-70, 0, 110, 40))) - whole).max() <= 1
    assert overlay(picture, values, (-1e8, -1e8, 1e8, 1e8)).size == (60, 40)


def test_a_box_may_reach_beyond_the_picture():
    """As of a model that pads its input: what falls on the padding is not drawn."""
    picture = Image.new("RGB", (80, 40), (90, 90, 90))
    drawn = pixels(overlay(picture, MAP, (0, -20, 80, 60)))
    assert drawn.shape == (40, 80, 3)
    assert np.abs(drawn[2, 2] - 90).max() <= 2
    assert drawn[38, 78].sum() > 3 * 90 + 150


@pytest.mark.parametrize("box", [(3.2, 3.2, 3.4, 3.4), (0, 0, 0.1, 60), (79.6, 0, 80, 60)])
def test_a_box_of_less_than_a_pixel_is_one(box):
    assert overlay(photo(80, 60), MAP, box).size == (80, 60)


def test_a_picture_is_written_without_loss():
    picture = photo(50, 30)
    assert np.array_equal(pixels(Image.open(io.BytesIO(png(picture)))), pixels(picture))
