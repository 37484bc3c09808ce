"""GIF and WebP: a first frame that is smaller than its canvas, and metadata."""

from __future__ import annotations

import struct
from typing import Any

import imagecodecs
import numpy as np
import pytest
from images import encode, photo
from PIL import Image

from service.errors import RequestError
from service.preprocess.decode import DecodePolicy, decode_upright, read

POLICY = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)
PICTURE = photo(40, 30).quantize(200)


def found(data: bytes) -> np.ndarray:
    return np.asarray(decode_upright(data, POLICY))


def placed(picture: np.ndarray, canvas: tuple[int, int], at: tuple[int, int]) -> np.ndarray:
    expected = np.full((canvas[1], canvas[0], 3), 255)
    height, width = picture.shape[:2]
    expected[at[1] : at[1] + height, at[0] : at[0] + width] = picture
    return expected


def gif(screen: tuple[int, int], at: tuple[int, int], extension: bytes = b"", **options) -> bytes:
    """PICTURE somewhere on a screen."""
    data = encode(PICTURE, "GIF", **options)
    head, palette = data[:13], 3 << (data[10] & 7) + 1
    body = bytearray(data[13 + palette :])
    where = body.index(b"," + bytes(4) + struct.pack("<HH", 40, 30))
    body[where + 1 : where + 5] = struct.pack("<HH", *at)
    return (
        head[:6] + struct.pack("<HH", *screen) + head[10:] + data[13 : 13 + palette] + extension
        + bytes(body)
    )  # fmt: skip


TRUE = np.asarray(PICTURE.convert("RGB"))


@pytest.mark.parametrize("options", [{}, {"transparency": 255}, {"interlace": 0}])
def test_a_gif_that_covers_a_part_of_its_screen_is_on_white(options):
    data = gif((64, 50), (7, 12), **options)
    assert np.array_equal(found(data), placed(TRUE, (64, 50), (7, 12)))
    assert read(data, 10_000).size == (64, 50)


@pytest.mark.parametrize("screen", [(0, 0), (10, 10)])
def test_a_screen_that_is_too_small_grows(screen):
    assert np.array_equal(found(gif(screen, (3, 0))), placed(TRUE, (43, 30), (3, 0)))


def test_a_gif_is_what_giflib_reads():
    data = encode(PICTURE, "GIF")
    assert np.array_equal(found(data), imagecodecs.gif_decode(data).reshape(30, 40, 3))


def with_code_bits(bits: int) -> bytes:
    data = bytearray(encode(PICTURE, "GIF"))
    data[data.index(b"," + bytes(4) + struct.pack("<HH", 40, 30)) + 10] = bits
    return bytes(data)


@pytest.mark.parametrize("bits", [0, 1, 9, 255])
def test_codes_of_no_usual_length_are_refused_by_name(bits):
    """Of 1 bit decoders do not agree where they grow."""
    assert found(with_code_bits(8)).shape == (30, 40, 3)
    with pytest.raises(RequestError, match=f"with {bits}-bit codes") as refusal:
        found(with_code_bits(bits))
    assert refusal.value.code == "unsupported_pixels"


XMP = b"!\xff\x0bXMP DataXMP"
TRAILER = b"\x01" + bytes(range(255, -1, -1)) + b"\0"


def test_metadata_of_megabytes_are_passed_over():
    line = b"<rdf:li>adobe:docid:photoshop:0001</rdf:li>\n"
    extension = XMP + b"<x>" + line * 200_000 + b"</x>" + TRAILER
    assert np.array_equal(found(gif((40, 30), (0, 0), extension)), TRUE)


def test_very_many_small_blocks_are_refused():
    comment = b"!\xfe" + b"\x01x" * 1_000_000 + b"\0"
    with pytest.raises(RequestError, match="far too many pieces"):
        found(gif((40, 30), (0, 0), comment))


def webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def uint24(value: int) -> bytes:
    return value.to_bytes(3, "little")


def animated(canvas: tuple[int, int], at: tuple[int, int], frame: bytes, size: tuple[int, int]):
    """A WebP whose first frame, the chunks of a still one, lies somewhere on its canvas."""
    parts = [
        webp_chunk(b"VP8X", b"\x12\0\0\0" + uint24(canvas[0] - 1) + uint24(canvas[1] - 1)),
        webp_chunk(b"ANIM", b"\xff\0\0\xff\0\0"),
    ]
    for _ in range(2):
        place = uint24(at[0] // 2) + uint24(at[1] // 2) + uint24(size[0] - 1) + uint24(size[1] - 1)
        parts.append(webp_chunk(b"ANMF", place + uint24(100) + b"\0" + frame))
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 90}])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_webp_frame_that_covers_a_part_of_its_canvas_is_on_white(options, alpha):
    picture = photo(40, 30)
    if alpha:
        picture.putalpha(Image.linear_gradient("L").resize((40, 30)))
    still = encode(picture, "WEBP", **options)
    at = 30 if still[12:16] == b"VP8X" else 12
    data = animated((64, 50), (8, 12), still[at:], (40, 30))
    expected = placed(found(still), (64, 50), (8, 12))
    assert np.array_equal(found(data), expected)
    judged = imagecodecs.webp_decode(still).astype(float)
    if alpha:
        share = judged[..., 3:] / 255
        judged = judged[..., :3] * share + 255 * (1 - share)
    assert np.abs(found(still) - judged).max() <= 2


def test_a_webp_whose_header_contradicts_its_picture_is_refused():
    still = encode(photo(40, 30), "WEBP")
    header = webp_chunk(b"VP8X", bytes(4) + uint24(63) + uint24(49))
    body = b"WEBP" + header + still[12:]
    with pytest.raises(RequestError, match="differs from its header"):
        found(b"RIFF" + struct.pack("<I", len(body)) + body)


def test_the_decoder_gets_no_metadata_of_a_webp():
    data = encode(photo(40, 30), "WEBP", exif=b"II*\0" + bytes(500_000), icc_profile=bytes(99_999))
    encoded: Any = read(data, 10_000)
    assert len(encoded.data) < 3000
