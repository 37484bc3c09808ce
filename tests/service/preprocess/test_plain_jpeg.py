"""The short way for plain JPEGs: not a pixel and not an error is other than on the long one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import encode, photo
from PIL import Image

from service.contract import Preprocessing
from service.errors import ImageTooLargeError, RequestError
from service.preprocess import decode as decoding
from service.preprocess.decode import DecodedImage, DecodePolicy, decode, decode_at_once
from service.preprocess.memory import DecodingMemory
from service.preprocess.plain_jpeg import decode_plain, plain_size

RULE = Preprocessing(resize=20, crop=16, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
POLICY = DecodePolicy(max_image_pixels=50_000_000, jpeg_draft_ratio=2)
PLAIN = encode(photo(40, 30), "JPEG", quality=90)
RULES = st.builds(
    lambda crop, more, interpolation: RULE.model_copy(
        update={"crop": crop, "resize": crop + more, "interpolation": interpolation}
    ),
    st.integers(1, 48),
    st.integers(0, 16),
    st.sampled_from(["bilinear", "bicubic"]),
)


def outcome(data: bytes, rule: Preprocessing, policy: DecodePolicy) -> object:
    """What can be told apart: pixels and sizes, or the error's class and words."""
    try:
        image = decode(data, rule, policy)
    except RequestError as error:
        return type(error), str(error)
    return image.pixels.tobytes(), image.pixels.shape, image.width, image.height


def long_way(data: bytes, rule: Preprocessing = RULE, policy: DecodePolicy = POLICY) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "plain_size", lambda _: None)
        return outcome(data, rule, policy)


def with_segment(marker: int, content: bytes) -> bytes:
    """The plain JPEG with a segment more, right at the start."""
    length = (len(content) + 2).to_bytes(2, "big")
    return PLAIN[:2] + bytes([0xFF, marker]) + length + content + PLAIN[2:]


@given(
    size=st.tuples(st.integers(1, 120), st.integers(1, 120)),
    mode=st.sampled_from(["RGB", "L"]),
    options=st.fixed_dictionaries(
        {
            "quality": st.integers(1, 100),
            "subsampling": st.sampled_from([0, 1, 2]),
        }
    ),
    rule=RULES,
    ratio=st.sampled_from([0, 1, 2]),
)
@settings(max_examples=150)
def test_pixels_are_those_of_the_long_way(size, mode, options, rule, ratio):
    data = encode(photo(*size).convert(mode), "JPEG", **options)
    # Tables of a bad quality have bytes that look like a marker.
    assert plain_size(data) == size or options["quality"] < 30
    policy = DecodePolicy(max_image_pixels=50_000_000, jpeg_draft_ratio=ratio)
    assert outcome(data, rule, policy) == long_way(data, rule, policy)


@given(
    cut=st.integers(0, len(PLAIN)),
    changes=st.lists(
        st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 255)), min_size=0, max_size=3
    ),
)
@settings(max_examples=400)
def test_a_damaged_image_meets_what_it_meets_on_the_long_way(cut, changes):
    data = bytearray(PLAIN)
    for at, value in changes:
        data[at] = value
    damaged = bytes(data[:cut] if cut % 2 else data)
    assert outcome(damaged, RULE, POLICY) == long_way(damaged)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(PLAIN[:2], id="its first bytes"),
        pytest.param(PLAIN[:300], id="cut off before the pixels"),
        pytest.param(encode(photo(40, 30), "PNG"), id="PNG"),
        pytest.param(encode(photo(40, 30), "JPEG", progressive=True), id="progressive"),
        pytest.param(encode(photo(40, 30).convert("CMYK"), "JPEG"), id="CMYK"),
        pytest.param(encode(photo(40, 30), "JPEG", keep_rgb=True), id="stored as RGB"),
        pytest.param(encode(photo(40, 30), "JPEG", exif=Image.Exif()), id="EXIF"),
        pytest.param(with_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"), id="XMP"),
        pytest.param(with_segment(0xEE, b"Adobe\0d\0\0\0\0\0\0"), id="Adobe's segment"),
        pytest.param(with_segment(0xE0, b"JFXX\0\x10" + PLAIN), id="a thumbnail"),
        pytest.param(encode(photo(40, 30), "JPEG", restart_marker_rows=1), id="restarts"),
    ],
)
def test_what_is_special_is_left_to_pillow(data):
    assert plain_size(data) is None


def test_a_color_profile_is_nothing_special():
    data = with_segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(200))
    assert plain_size(data) == (40, 30)
    assert outcome(data, RULE, POLICY) == long_way(data)


def test_damage_among_the_pixels_is_seen():
    whole = decode_plain(PLAIN, (40, 30))
    assert whole is not None
    assert decode_plain(PLAIN[:-100], (40, 30)) is None
    longer = decode_plain(PLAIN[:-2] + b"some more" + PLAIN[-2:], (40, 30))
    assert longer is not None, "those are of no pixel"
    assert np.array_equal(longer, whole)


def test_too_many_pixels_are_refused_by_the_header(monkeypatch):
    monkeypatch.setattr(decoding, "decode_plain", pytest.fail)
    with pytest.raises(ImageTooLargeError, match="40 x 30 = 1200 pixels"):
        decode(PLAIN, RULE, DecodePolicy(max_image_pixels=1199, jpeg_draft_ratio=2))


def test_memory_is_held_while_it_is_decoded(monkeypatch):
    held = []

    def look(data: bytes, size: tuple[int, int]):
        held.append(POLICY.memory.held)
        return decode_plain(data, size)

    monkeypatch.setattr(decoding, "decode_plain", look)
    assert isinstance(decode(PLAIN, RULE, POLICY), DecodedImage)
    assert held == [40 * 30 * 8]
    assert POLICY.memory.held == 0


def test_an_image_that_is_to_be_reduced_is_left_to_pillow(monkeypatch):
    monkeypatch.setattr(decoding, "decode_plain", pytest.fail)
    large = encode(photo(200, 160), "JPEG")
    with Image.open(io.BytesIO(large)) as image:
        image.draft("RGB", (40, 32))
        assert image.size == (50, 40)
    assert np.ptp(decode(large, RULE, POLICY).pixels) > 0


def test_a_small_plain_jpeg_is_decoded_at_once():
    """To the same pixels, and without the memory that larger ones wait for."""
    full = DecodePolicy(50_000_000, jpeg_draft_ratio=2, memory=DecodingMemory(1))
    with full.memory.hold(1):
        image = decode_at_once(PLAIN, RULE, full)
    assert image is not None
    assert (image.width, image.height) == (40, 30)
    assert np.array_equal(image.pixels, decode(PLAIN, RULE, POLICY).pixels)


def test_what_has_too_many_pixels_is_refused_at_once_too():
    """However small the limit is."""
    with pytest.raises(ImageTooLargeError, match="40 x 30 = 1200 pixels"):
        decode_at_once(PLAIN, RULE, DecodePolicy(max_image_pixels=1199, jpeg_draft_ratio=2))


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        pytest.param(encode(photo(97, 60), "JPEG"), RULE, id="a large image"),
        pytest.param(PLAIN, RULE.model_copy(update={"resize": 97}), id="a large input"),
        pytest.param(PLAIN + bytes(16_384), RULE, id="many bytes"),
        pytest.param(PLAIN[:-100], RULE, id="a damaged image"),
        pytest.param(encode(photo(40, 30), "PNG"), RULE, id="another format"),
        pytest.param(encode(photo(90, 90), "JPEG"), RULE, id="one that is to be reduced"),
    ],
)
def test_what_may_take_longer_is_not_decoded_at_once(data: bytes, rule: Preprocessing):
    assert decode_at_once(data, rule, POLICY) is None
