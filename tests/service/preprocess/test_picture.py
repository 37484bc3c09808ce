"""Images as people look at them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import encode, photo
from PIL import Image

from service.contract import Preprocessing
from service.errors import ImageTooLargeError
from service.preprocess.decode import DecodePolicy
from service.preprocess.memory import DecodingMemory
from service.preprocess.picture import bounded_size, decoded_picture

RULE = Preprocessing(resize=64, crop=64, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
POLICY = DecodePolicy(50_000_000, 4)

sides = st.integers(1, 20_000)


def picture(data: bytes, longest: int, rule: Preprocessing = RULE) -> Image.Image:
    with decoded_picture(data, rule, POLICY, longest, 0) as found:
        return found.upright(found.image)


@given(width=sides, height=sides, longest=st.integers(1, 2000))
def test_the_long_side_is_bounded_and_the_aspect_kept(width, height, longest):
    new = bounded_size(width, height, longest)
    assert max(new) == min(longest, max(width, height))
    assert min(new) >= 1
    scale = max(new) / max(width, height)
    assert abs(new[0] - width * scale) <= 1
    assert abs(new[1] - height * scale) <= 1


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(1200, 900), (701, 1403), (1023, 517)])
def test_a_large_image_is_the_same_picture_only_smaller(image_format, size):
    """A JPEG is decoded at a smaller size, whose last blocks are only partly filled."""
    image = photo(*size)
    found = picture(encode(image, image_format), 300)
    expected = image.resize(bounded_size(size[0], size[1], 300), Image.Resampling.BICUBIC)
    assert found.size == expected.size
    difference = np.asarray(found).astype(int) - np.asarray(expected)
    assert np.abs(difference).mean() < 3
    shifted = np.asarray(found)[:, 1:].astype(int) - np.asarray(expected)[:, :-1]
    assert np.abs(difference).mean() < np.abs(shifted).mean() / 2, "it lies where it should"


def test_a_small_image_is_not_enlarged():
    image = photo(90, 60)
    assert np.array_equal(np.asarray(picture(encode(image, "PNG"), 300)), np.asarray(image))


@pytest.mark.parametrize("exif", ["apply", "ignore"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright_whether_the_model_sees_it_so_or_not(orientation, exif):
    image = photo(64, 40)
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = encode(image, "PNG", exif=tags)
    rule = RULE.model_copy(update={"exif": exif})
    expected = {
        1: image, 2: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: image.transpose(Image.Transpose.ROTATE_180),
        4: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: image.transpose(Image.Transpose.TRANSPOSE),
        6: image.transpose(Image.Transpose.ROTATE_270),
        7: image.transpose(Image.Transpose.TRANSVERSE),
        8: image.transpose(Image.Transpose.ROTATE_90),
    }[orientation]  # fmt: skip
    assert np.array_equal(np.asarray(picture(data, 300, rule)), np.asarray(expected))
    with decoded_picture(data, rule, POLICY, 300, 0) as found:
        seen = expected if exif == "apply" else image
        assert np.array_equal(np.asarray(found.image), np.asarray(seen)), "as the model sees it"


def test_memory_for_decoding_and_for_what_follows_is_held_to_the_end():
    memory = DecodingMemory(10_000_000)
    policy = DecodePolicy(10**6, 4, memory)
    data = encode(photo(100, 80), "PNG")
    with decoded_picture(data, RULE, policy, 300, 5_000_000):
        assert 5_040_000 <= memory.held < 5_200_000
    assert memory.held == 0
    with (
        pytest.raises(ImageTooLargeError),
        decoded_picture(data, RULE, policy, 300, 10_000_000),
    ):
        pass
