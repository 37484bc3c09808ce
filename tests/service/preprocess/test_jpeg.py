"""JPEGs of odd samplings and heights, and those whose end is not marked."""

from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from images import encode, smooth
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from service.contract import Preprocessing
from service.errors import RequestError
from service.preprocess.decode import DecodePolicy, decode, decode_upright, read

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
    with pytest.raises(RequestError, match="fractional subsampling") as refusal:
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


# What the decoder warns of


def stray(data: bytes, marker: bytes) -> bytes:
    """Bytes before the first of such markers, of which the decoder warns, and of no other."""
    at = data.index(marker)
    return data[:at] + b"stray bytes" + data[at:]


WARNED = {
    "before the end": stray(encode(smooth(96, 64), "JPEG"), b"\xff\xd9"),
    "grey": stray(encode(smooth(96, 64).convert("L"), "JPEG"), b"\xff\xd9"),
    "before a restart": stray(encode(smooth(96, 64), "JPEG", restart_marker_rows=1), b"\xff\xd0"),
    "between scans": stray(encode(smooth(96, 64), "JPEG", progressive=True), b"\xff\xd9"),
    "of inks": stray(encode(smooth(96, 64).convert("CMYK"), "JPEG"), b"\xff\xd9"),
    "of a sampling without a name": stray(sampled((0x31, 0x11, 0x11)), b"\xff\xd9"),
}


@pytest.fixture
def decoded(monkeypatch):
    """The number of times that all pixels were decoded, by either library."""
    times = list[str]()
    by_simplejpeg, load = simplejpeg.decode_jpeg, JpegImageFile.load

    def decode_jpeg(*args, **options):
        simplejpeg.decode_jpeg_header(args[0])  # where samplings without a name are refused
        times.append("simplejpeg")
        return by_simplejpeg(*args, **options)

    def load_once(image):
        if image.tile:  # or it has been decoded
            times.append("Pillow")
        return load(image)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_jpeg)
    monkeypatch.setattr(JpegImageFile, "load", load_once)
    return times


@pytest.mark.parametrize("kind", WARNED)
def test_a_harmless_warning_has_an_image_decoded_twice_at_most(kind, decoded):
    data = WARNED[kind]
    rule = Preprocessing(resize=8, crop=8, interpolation="bilinear", mean=(0,) * 3, std=(1,) * 3)
    decode(data, rule, POLICY)
    assert len(decoded) == (1 if kind in {"before the end", "grey", "of inks"} else 2)
    clean = data.replace(b"stray bytes", b"")
    assert np.array_equal(
        np.asarray(decode_upright(data, POLICY)), np.asarray(decode_upright(clean, POLICY))
    )


@pytest.mark.parametrize("kind", WARNED)
def test_a_jpeg_with_a_warning_needs_no_more_memory_than_is_counted(kind):
    """Its pixels are there once more, or its file is."""
    data = WARNED[kind]
    image = read(data, 10**6)
    assert image.peak_bytes() >= 2 * len(data) + 8 * 96 * 64 - 100


@given(
    cut=st.integers(1, 1500),
    first=st.integers(0, 6),
    behind=st.sampled_from([b"", b"\xff\xd8 another picture \xff\xd9"]),
)
@settings(max_examples=150, deadline=None)
def test_missing_pixels_are_seen_behind_another_warning(cut, first, behind):
    """Wherever between two restarts the data end, and whichever is due next."""
    whole = encode(NOISE, "JPEG", quality=50, restart_marker_blocks=4)
    data = stray(whole, bytes([0xFF, 0xD0 + first]))
    short = data[: -2 - cut]
    if short[-1] == 0xFF:
        return  # half a marker, or half of a byte that is no marker
    with pytest.raises(RequestError) as refusal:
        decode_upright(short + b"\xff\xd9" + behind, POLICY)
    assert refusal.value.code == "truncated_image"
    assert decode_upright(data + behind, POLICY).size == NOISE.size


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.9, 0.98])
def test_missing_pixels_of_several_scans_are_seen_behind_another_warning(share):
    whole = encode(NOISE, "JPEG", quality=50, restart_marker_blocks=4, progressive=True)
    data = stray(whole, b"\xff\xd0")
    assert decode_upright(data, POLICY).size == NOISE.size
    with pytest.raises(RequestError) as refusal:
        decode_upright(data[: int(share * len(data))] + b"\xff\xd9", POLICY)
    assert refusal.value.code == "truncated_image"


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96), np.uint8))


def test_damaged_codes_are_corrupt():
    """What follows them is of no pixel in the right place."""
    data = bytearray(encode(NOISE, "JPEG", quality=50, progressive=True))
    at = data.rindex(b"\xff\xda") + 40
    data[at : at + 8] = b"\xff\0" * 4  # no code begins so
    with pytest.raises(RequestError) as refusal:
        decode_upright(bytes(data), POLICY)
    assert refusal.value.code == "corrupt_image"


def test_a_jpeg_without_one_of_its_restarts_is_truncated():
    data = encode(NOISE, "JPEG", quality=50, restart_marker_blocks=4)
    lost = data[: data.index(b"\xff\xd1")] + data[data.index(b"\xff\xd2") :]
    with pytest.raises(RequestError) as refusal:
        decode_upright(lost, POLICY)
    assert refusal.value.code == "truncated_image"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 7), (8, 8), (9, 5)])
def test_a_picture_of_some_pixels_is_decoded_at_its_full_size(size, mode):
    """Although it would be as large at 7/8 of it."""
    picture = Image.fromarray(np.asarray(NOISE)[: size[1], : size[0]]).convert(mode)
    data = encode(picture, "JPEG", quality=95)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(decode_upright(data, POLICY)), expected)
