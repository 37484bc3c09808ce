"""AVIF and, where its decoder is installed, HEIC: as other decoders read them, within limits."""

from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from images import encode, smooth
from PIL import Image, ImageOps

from service.errors import RequestError
from service.preprocess import heic
from service.preprocess.bits import Bits
from service.preprocess.decode import DecodePolicy, decode_upright, read

pillow_heif.register_heif_opener()

POLICY = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)
FORMATS = ["AVIF", "HEIF"]


def code(data: bytes, policy: DecodePolicy = POLICY) -> str:
    try:
        decode_upright(data, policy)
    except RequestError as error:
        return error.code
    return "answered"


def shown(data: bytes) -> np.ndarray:
    """What Pillow and pillow-heif show, on white."""
    with Image.open(io.BytesIO(data)) as image:
        picture = ImageOps.exif_transpose(image).convert("RGBA")
    white = Image.new("RGB", picture.size, "white")
    white.paste(picture, mask=picture)
    return np.asarray(white)


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("image_format", FORMATS)
def test_images_are_upright_and_on_white(image_format, mode, orientation):
    """Of an odd width, which HEIC codes as an even one of which a part is shown."""
    picture = smooth(61, 40).convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.linear_gradient("L").resize((61, 40)))
    options = {}
    if orientation:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif.tobytes()
    data = encode(picture, image_format, quality=90, **options)
    found = np.asarray(decode_upright(data, POLICY))
    expected = shown(data)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert read(data, 10_000).size == (found.shape[1], found.shape[0])


@pytest.mark.parametrize("layout", ["420", "444"])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avifs_of_all_depths_are_decoded(bits, layout):
    pixels = np.asarray(smooth(64, 48)).astype(int)
    values = (
        pixels.astype(np.uint8) if bits == 8 else (pixels * (2**bits - 1) // 255).astype(np.uint16)
    )
    data = imagecodecs.avif_encode(values, level=95, bitspersample=bits, pixelformat=layout)
    assert np.abs(np.asarray(decode_upright(data, POLICY)) - pixels.astype(int)).mean() < 3


def test_an_animation_gives_its_still_image():
    first = smooth(48, 32)
    data = encode(first, "AVIF", save_all=True, append_images=[ImageOps.invert(first)], quality=95)
    assert data[8:12] == b"avis"
    assert (
        np.abs(np.asarray(decode_upright(data, POLICY)) - np.asarray(first).astype(int)).mean() < 4
    )


@pytest.mark.parametrize("image_format", FORMATS)
def test_the_limit_on_pixels_holds_by_the_header(image_format):
    data = encode(smooth(64, 64), image_format)
    assert code(data, DecodePolicy(4096, 0)) == "answered"
    assert code(data, DecodePolicy(4095, 0)) == "image_too_large"


@pytest.mark.parametrize("image_format", FORMATS)
def test_frames_of_another_size_than_told_are_refused(image_format):
    """A decoder makes room for what the frames themselves say."""
    data = encode(smooth(640, 480), image_format)
    told = data.index(b"ispe") + 8
    smaller = data[:told] + struct.pack(">II", 64, 48) + data[told + 8 :]
    assert code(data) == "answered"
    assert code(smaller) == "corrupt_image"


def test_an_avif_of_many_frames_in_its_picture_is_refused():
    """All those before the one that is shown are decoded."""
    data = encode(smooth(64, 48), "AVIF")
    file = data.index(b"mdat") + 4
    frame = data[file:]
    units = b"\x12\0" + frame.removeprefix(b"\x12\0") * 40
    assert code(_with_item(data, units)) == "corrupt_image"
    assert code(_with_item(data, frame)) == "answered"


def _with_item(data: bytes, item: bytes) -> bytes:
    """An AVIF of one item whose bytes are others."""
    start = data.index(b"mdat") + 4
    place = data.index(b"iloc")
    length = struct.pack(">I", len(data) - start)
    at = data.index(struct.pack(">I", start) + length, place) + 4
    data = data[:at] + struct.pack(">I", len(item)) + data[at + 4 :]
    return data[: start - 8] + struct.pack(">I", len(item) + 8) + b"mdat" + item


@pytest.mark.parametrize("image_format", FORMATS)
@pytest.mark.parametrize("percent", [1, 5, 25, 50, 75, 95])
def test_what_is_cut_off_is_refused(image_format, percent):
    data = encode(smooth(320, 240), image_format)
    assert code(data[: len(data) * percent // 100]) in {
        "truncated_image", "corrupt_image", "not_an_image",
    }  # fmt: skip


def test_without_its_decoder_a_heic_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(heic, "is_installed", lambda: False)
    with pytest.raises(RequestError, match=r"HEIC.*convert it to JPEG.*pip install") as refusal:
        decode_upright(encode(smooth(40, 30), "HEIF"), POLICY)
    assert (refusal.value.status, refusal.value.code) == (415, "heic_not_supported")


def test_bits_are_taken_from_the_highest_on():
    bits = Bits(bytes([0b10110010, 0b00011011]))
    assert [bits.take(1), bits.take(3), bits.take(4)] == [1, 3, 2]
    assert bits.take_counted() == 12  # three zeros, then 1101, less one
    with pytest.raises(RequestError):
        bits.take(10)
