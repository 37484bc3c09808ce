"""Preprocessing that schema 2 has no words for: bit for bit what models were trained with.

The references are the steps of torchvision (`Resize`, `CenterCrop`), timm (`ResizeKeepRatio`,
`CenterCropOrPad`) and Hugging Face's processors, which all resize with Pillow.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from images import encode, photo, smooth
from PIL import Image

from service.contract import Preprocessing
from service.preprocess.decode import DecodePolicy, decode, decode_at_once
from service.preprocess.header import read_header
from service.preprocess.transform import held_bytes, kept_of, resized_size, transform

EXACT = DecodePolicy(10**8, 0)
FILTERS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")


def rule(**fields: Any) -> Preprocessing:
    usual = {"interpolation": "bilinear", "mean": (0, 0, 0), "std": (1, 1, 1)}
    return Preprocessing(**(usual | fields))


def reference(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Resize, then crop or pad, in the plain steps of the libraries."""
    p, (width, height) = preprocessing, image.size
    to_height, to_width = p.resize_to
    if p.fit == "short_side":
        short, long = sorted(image.size)
        new_long = int(to_height * long / short)
        size = (to_height, new_long) if width <= height else (new_long, to_height)
    elif p.fit == "squash":
        size = to_width, to_height
    else:  # timm: 1 for the longest, 0 for the shortest
        longest = 1.0 if p.fit == "contain" else 0.0
        ratios = height / to_height, width / to_width
        ratio = max(ratios) * longest + min(ratios) * (1.0 - longest)
        size = max(1, round(width / ratio)), max(1, round(height / ratio))
    resized = image.resize(size, getattr(Image.Resampling, p.interpolation.upper()))
    in_height, in_width = p.input_size
    padded = Image.new("RGB", (max(size[0], in_width), max(size[1], in_height)), p.fill)
    at = (0, 0) if p.position == "top_left" else (
        (padded.width - size[0]) // 2, (padded.height - size[1]) // 2
    )  # fmt: skip
    padded.paste(resized, at)
    spare = padded.width - in_width, padded.height - in_height
    if p.offset == "down":
        left, top = spare[0] // 2, spare[1] // 2
    else:
        left, top = round(spare[0] / 2.0), round(spare[1] / 2.0)
    return np.asarray(padded.crop((left, top, left + in_width, top + in_height)))


@st.composite
def rules(draw, largest: int = 96) -> Preprocessing:
    fit = draw(st.sampled_from(["short_side", "cover", "contain", "squash"]))
    sides = st.integers(1, largest)
    fields: dict[str, Any] = {"fit": fit, "interpolation": draw(st.sampled_from(FILTERS))}
    fields["offset"] = draw(st.sampled_from(["even", "down"]))
    if fit == "contain":
        fields["fill"] = draw(st.tuples(*[st.integers(0, 255)] * 3))
        fields["position"] = draw(st.sampled_from(["center", "top_left"]))
        return rule(
            resize=draw(st.tuples(sides, sides)), crop=draw(st.tuples(sides, sides)), **fields
        )
    crop = draw(st.tuples(sides, sides))
    if fit == "short_side":
        return rule(resize=draw(st.integers(max(crop), largest)), crop=crop, **fields)
    resize = tuple(draw(st.integers(side, largest)) for side in crop)
    return rule(resize=resize, crop=crop, **fields)


small = st.integers(1, 320)


@given(width=small, height=small, preprocessing=rules(), seed=st.integers(0, 99))
@settings(max_examples=400)
def test_the_pixels_are_those_of_the_plain_steps(width, height, preprocessing, seed):
    """For every fit, filter and rounding, whatever the image's shape."""
    image = smooth(width, height, seed)
    assume(held_bytes(image.size, preprocessing))  # otherwise resized and cropped in one
    got = transform(image, preprocessing)
    assert got.shape == (*preprocessing.input_size, 3)
    assert np.array_equal(got, reference(image, preprocessing))


sides = st.integers(1, 20_000)


@given(width=sides, height=sides, preprocessing=rules(1024))
@settings(max_examples=400)
def test_what_is_kept_lies_in_the_resized_image_and_in_the_input(width, height, preprocessing):
    resized = resized_size(width, height, preprocessing)
    kept = kept_of(resized, preprocessing)
    in_height, in_width = preprocessing.input_size
    assert 0 <= kept.left <= kept.left + kept.width <= resized[0]
    assert 0 <= kept.top <= kept.top + kept.height <= resized[1]
    assert 0 <= kept.at[0] <= kept.at[0] + kept.width <= in_width
    assert 0 <= kept.at[1] <= kept.at[1] + kept.height <= in_height
    if preprocessing.fit != "contain":
        assert (kept.width, kept.height) == (in_width, in_height), "nothing is filled"


@given(width=sides, height=sides, preprocessing=rules(1024))
@settings(max_examples=400)
def test_covering_leaves_nothing_open_and_containing_cuts_nothing_off(width, height, preprocessing):
    """Up to the rounding to whole pixels, one side is exactly as long as asked."""
    new_width, new_height = resized_size(width, height, preprocessing)
    to_height, to_width = preprocessing.resize_to
    if preprocessing.fit == "cover":
        assert new_width >= to_width
        assert new_height >= to_height
    elif preprocessing.fit == "contain":
        assert new_width <= to_width
        assert new_height <= to_height
    if preprocessing.fit != "short_side":
        assert new_width == to_width or new_height == to_height


def test_an_extreme_strip_needs_no_huge_intermediate():
    """Two exact steps would take gigabytes; one boxed resize shows the same part."""
    ramp = np.linspace(0, 255, 20_000).astype(np.uint8).reshape(-1, 1)
    preprocessing = rule(resize=1024, crop=1024, offset="even")
    assert held_bytes((1, 20_000), preprocessing) == 0
    pixels = transform(Image.fromarray(ramp).convert("RGB"), preprocessing)
    assert set(np.unique(pixels)) <= {126, 127, 128}, "the middle of the ramp"


def test_a_turned_photo_is_fitted_as_it_is_displayed():
    """Also when it is decoded at reduced size: height and width must not be mixed up."""
    upright = photo(600, 1200, 5)
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = encode(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)
    preprocessing = rule(resize=(40, 60), crop=(40, 60), fit="contain", fill=(255, 0, 0))
    exact = decode(stored, preprocessing, EXACT)
    assert (exact.width, exact.height) == (600, 1200)
    assert exact.pixels.shape == (40, 60, 3)
    assert (exact.pixels[:, :19] == (255, 0, 0)).all(), "filled at the left"
    assert not (exact.pixels[:, 21] == (255, 0, 0)).all()
    reduced = decode(stored, preprocessing, DecodePolicy(10**8, 4)).pixels
    assert np.abs(reduced.astype(int) - exact.pixels).mean() < 2


def test_a_reduced_jpeg_is_announced_by_the_size_that_its_fit_needs():
    """Squashed to 40 x 640, a photo of 600 x 1200 must keep its width."""
    data = encode(photo(600, 1200), "JPEG")
    flat, small = rule(resize=(40, 640), crop=(40, 640), fit="squash"), rule(resize=40, crop=40)
    assert read_header(data, flat, 4).kind == "jpeg"
    assert read_header(data, small, 4).kind == "jpeg reduced"


@pytest.mark.parametrize("fit", ["cover", "contain", "squash"])
def test_a_small_plain_jpeg_of_the_models_size_is_passed_on_as_it_is(fit):
    data = encode(smooth(60, 40), "JPEG")
    preprocessing = rule(resize=(40, 60), crop=(40, 60), fit=fit)
    at_once = decode_at_once(data, preprocessing, EXACT)
    assert at_once is not None
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(at_once.pixels, np.asarray(image.convert("RGB")))


OLD = {"resize": 74, "crop": 64, "interpolation": "bilinear", "exif": "apply",
       "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}  # fmt: skip


def test_what_schema_2_can_say_is_written_as_before():
    """So that older releases read every file that they can serve."""
    assert json.loads(Preprocessing.model_validate(OLD).model_dump_json()) == OLD


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"fit": "cover", "resize": (10, 20), "crop": (11, 5)}, "crop (11 x 5) is larger than"),
        ({"resize": (10, 20), "crop": 5}, "one number with fit short_side"),
        ({"resize": 10, "crop": (5, 11)}, "crop (5 x 11) is larger than resize (10)"),
        ({"resize": 10, "crop": 10, "fill": (1, 2, 3)}, "fill and position are for fit contain"),
        ({"resize": 10, "crop": 10, "fit": "contain", "fill": (1, 2, 256)}, "fill"),
        ({"resize": 10, "crop": (0, 5)}, "crop"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        rule(**fields)
