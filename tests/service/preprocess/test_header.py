"""What is read of an image's header to plan by: its kind and its size, whatever follows."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, features

from service.contract import Preprocessing
from service.preprocess.header import UNKNOWN, Header, read_header

TO_64 = Preprocessing(
    resize=64, crop=64, interpolation="bilinear", exif="apply", mean=(0, 0, 0), std=(1, 1, 1)
)


def encoded(mode: str, size: tuple[int, int], **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, **options)
    return stream.getvalue()


def read(data: bytes, ratio: float = 0) -> Header:
    return read_header(data, TO_64, ratio)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("jpeg", "RGB", {"format": "JPEG"}),
        ("jpeg", "L", {"format": "JPEG", "exif": b"Exif\0\0" + b"x" * 60_000}),
        ("jpeg", "RGB", {"format": "JPEG", "icc_profile": b"x" * 300_000, "comment": b"x" * 999}),
        ("jpeg progressive", "RGB", {"format": "JPEG", "progressive": True}),
        ("png", "RGB", {"format": "PNG"}),
        ("png", "P", {"format": "PNG"}),
        ("png with alpha", "RGBA", {"format": "PNG"}),
        ("png with alpha", "LA", {"format": "PNG"}),
        ("webp", "RGB", {"format": "WEBP"}),
        ("webp", "RGB", {"format": "WEBP", "icc_profile": b"x" * 999}),
        ("webp lossless", "RGB", {"format": "WEBP", "lossless": True}),
        ("gif", "P", {"format": "GIF"}),
        ("bmp", "RGB", {"format": "BMP"}),
        ("tiff", "RGB", {"format": "TIFF"}),
        ("tiff", "RGB", {"format": "TIFF", "compression": "tiff_lzw"}),
        ("tiff", "RGB", {"format": "TIFF", "big_tiff": True}),
        pytest.param(
            "avif", "RGB", {"format": "AVIF"},
            marks=pytest.mark.skipif(not features.check("avif"), reason="Pillow lacks AVIF"),
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [(300, 200), (64, 500)])
def test_kind_and_size_are_read(kind, mode, options, size):
    assert read(encoded(mode, size, **options)) == Header(kind, *size)


def test_a_bmp_may_be_upside_down_or_of_the_old_kind():
    data = bytearray(encoded("RGB", (30, 20), format="BMP"))
    data[22:26] = struct.pack("<i", -20)
    assert read(bytes(data)) == Header("bmp", 30, 20)
    old = b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 30, 20, 1, 24)
    assert read(old) == Header("bmp", 30, 20)


def test_a_tiff_may_be_big_endian_and_its_sides_short_or_long():
    entries = struct.pack(">HHIHxx", 256, 3, 1, 30) + struct.pack(">HHII", 257, 4, 1, 70_000)
    data = b"MM\0*" + struct.pack(">IH", 8, 2) + entries
    assert read(data) == Header("tiff", 30, 70_000)


def test_a_jpeg_that_is_decoded_at_reduced_size_is_of_another_kind():
    data = encoded("RGB", (512, 600), format="JPEG")
    assert read(data, ratio=4).kind == "jpeg reduced"
    assert read(data, ratio=5).kind == "jpeg"
    assert read(data, ratio=0).kind == "jpeg"
    progressive = encoded("RGB", (512, 600), format="JPEG", progressive=True)
    assert read(progressive, ratio=4).kind == "jpeg progressive"


@pytest.mark.parametrize("data", [b"", b"no image", b"RIFF1234WAVEfmt ", b"\0\0\0\x1cftypmp42"])
def test_what_is_no_image_says_nothing(data):
    assert read(data).pixels == 0


starts = [
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF1234WEBPVP8 ", b"RIFF1234WEBPVP8X", b"GIF89a",
    b"RIFF1234WEBPVP8L", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"\0\0\0\x1cftypavif",
]  # fmt: skip


@given(st.sampled_from(starts), st.binary(max_size=200))
@example(b"II+\0", b"\x08\0\0\0" + b"\xff" * 8)
def test_any_bytes_give_a_size_or_nothing(start, rest):
    assert read(start + rest, ratio=4).pixels >= 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_header_that_is_cut_off_anywhere_does_no_harm(kind):
    data = encoded("RGB", (64, 48), format=kind)
    for size in range(min(len(data), 400)):
        assert read(data[:size]) in {UNKNOWN, read(data)} or read(data[:size]).pixels == 0
