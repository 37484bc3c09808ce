"""JPEGs of odd samplings and heights, and those whose end is not marked."""

from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import pytest
from images import encode, smooth
from PIL import Image

from service.errors import RequestError
from service.preprocess.decode import DecodePolicy, decode_upright

POLICY = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)
# Width and height of a block of each colour, as one byte.
NAMED = [(0x11, 0x11, 0x11), (0x21, 0x11, 0x11), (0x22, 0x11, 0x11), (0x41, 0x11, 0x11)]
WITHOUT_A_NAME = [
    (0x31, 0x11, 0x11), (0x24, 0x11, 0x11), (0x42, 0x11, 0x11), (0x22, 0x12, 0x21),
    (0x11, 0x21, 0x21), (0x12, 0x12, 0x11),
]  # fmt: skip


def sampled(sampling: tuple[int, ...], size: tuple[int, int] = (93, 70)) -> bytes:
    """A whole JPEG that says so, made of a grey one's blocks."""
    blocks = sum((each >> 4) * (each & 15) for each in sampling)
    across, down = (max(each >> 4 for each in sampling), max(each & 15 for each in sampling))
    units = -(-size[0] // (8 * across)) * -(-size[1] // (8 * down))
    grey = smooth(8 * blocks, 8 * units).convert("L")
    file = io.BytesIO()
    grey.save(file, "JPEG", quality=90)
    data = file.getvalue()
    scan = data.index(b"\xff\xda")
    frame = data.index(b"\xff\xc0")
    parts = b"".join(bytes([i + 1, each, 0]) for i, each in enumerate(sampling))
    header = struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, size[1], size[0], 3) + parts
    entropy = data[scan + 10 :]
    head = data[:frame] + header + data[frame + 13 : scan]
    return head + b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\x3f\0" + entropy


@pytest.mark.parametrize("sampling", [*NAMED, *WITHOUT_A_NAME])
def test_any_sampling_is_what_libjpeg_reads(sampling):
    data = sampled(sampling)
    expected = imagecodecs.jpeg8_decode(data, outcolorspace="rgb")
    found = np.asarray(decode_upright(data, POLICY))
    assert found.std() > 5
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("sampling", [*NAMED, *WITHOUT_A_NAME])
def test_an_end_that_is_not_marked_is_told_from_one_that_is_missing(sampling):
    """Also of samplings that simplejpeg has no name for."""
    data = sampled(sampling, (96, 64))  # no pixel of a block lies beyond it
    whole = np.asarray(decode_upright(data, POLICY))
    assert np.array_equal(np.asarray(decode_upright(data[:-2], POLICY)), whole)
    for cut in (60, 400):  # fewer bytes may be of no pixel that differs
        with pytest.raises(RequestError) as refusal:
            decode_upright(data[:-cut], POLICY)
        assert refusal.value.code == "truncated_image"


@pytest.mark.parametrize("sampling", [(0x31, 0x21, 0x11), (0x13, 0x12, 0x11)])
def test_colours_of_parts_of_pixels_are_refused_by_name(sampling):
    with pytest.raises(RequestError, match="parts of others' pixels") as refusal:
        decode_upright(sampled(sampling), POLICY)
    assert refusal.value.code == "unsupported_pixels"


def without_height(data: bytes) -> bytes:
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + b"\0\0" + data[at + 2 :]


def test_a_height_that_follows_the_pixels_is_refused_by_name():
    """Its own marker tells it (DNL); without one, the file is broken."""
    data = without_height(encode(smooth(40, 30), "JPEG"))
    named = data[:-2] + b"\xff\xdc\0\4" + struct.pack(">H", 30) + data[-2:]
    with pytest.raises(RequestError, match="DNL") as refusal:
        decode_upright(named, POLICY)
    assert refusal.value.code == "unsupported_pixels"
    with pytest.raises(RequestError) as refusal:
        decode_upright(data, POLICY)
    assert refusal.value.code == "corrupt_image"


@pytest.mark.parametrize("between", [b"\xff" * 9, bytes(9), b"garbage"])
def test_what_lies_between_segments_is_passed_over(between):
    """As libjpeg does it."""
    data = encode(smooth(40, 30), "JPEG", quality=90)
    at = data.index(b"\xff\xc0")
    longer = data[:at] + between + data[at:]
    expected = imagecodecs.jpeg8_decode(longer, outcolorspace="rgb")
    assert np.array_equal(np.asarray(decode_upright(longer, POLICY)), expected)


def test_quantisation_of_16_bits_and_restarts_are_decoded():
    tables = [list(range(1, 65)), [300] * 64]
    for options in ({"qtables": tables}, {"restart_marker_rows": 1}, {"restart_marker_blocks": 3}):
        data = encode(smooth(93, 70), "JPEG", **options)
        expected = imagecodecs.jpeg8_decode(data, outcolorspace="rgb")
        assert np.array_equal(np.asarray(decode_upright(data, POLICY)), expected)


def test_a_thumbnail_in_the_exif_data_is_not_the_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = smooth(93, 70)
    small = encode(picture.resize((16, 12)), "JPEG")
    data = encode(picture, "JPEG", quality=90, exif=exif.tobytes() + small)
    expected = np.rot90(imagecodecs.jpeg8_decode(data, outcolorspace="rgb"), -1)
    assert np.array_equal(np.asarray(decode_upright(data, POLICY)), expected)
