"""Images whose pixels end early though their file is well formed: none is answered with a part."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from images import encode, png, png_chunk, smooth
from PIL import Image

from service.contract import Preprocessing
from service.errors import RequestError
from service.preprocess.decode import DecodePolicy, decode, decode_upright, read

POLICY = DecodePolicy(max_image_pixels=4_000_000, jpeg_draft_ratio=0)
SMALL = Preprocessing(resize=8, crop=8, interpolation="bilinear", mean=(0,) * 3, std=(1,) * 3)
SIZE = WIDTH, HEIGHT = 45, 37
END = b"\xff\xd9"


def code(data: bytes, policy: DecodePolicy = POLICY) -> str:
    with pytest.raises(RequestError) as refusal:
        decode(data, SMALL, policy)
    return refusal.value.code


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode_upright(data, POLICY))


# PNG

KINDS = [(0, 8, 1), (0, 1, 1), (0, 16, 1), (2, 8, 3), (2, 16, 3), (3, 8, 1), (3, 2, 1), (4, 8, 2),
         (4, 16, 2), (6, 8, 4), (6, 16, 4)]  # fmt: skip
PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2)]  # fmt: skip


def row_bytes(width: int, bits: int, samples: int) -> int:
    return 1 + (width * bits * samples + 7) // 8


def rows(number: int, length: int, fill: int = 255) -> bytes:
    return (b"\0" + bytes([fill]) * (length - 1)) * number


def palette(kind: int, bits: int) -> list[bytes]:
    return [png_chunk(b"PLTE", bytes(range(3)) * (1 << bits))] if kind == 3 else []


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize(("kind", "bits", "samples"), KINDS)
def test_a_png_whose_stream_ends_between_two_rows_is_truncated(kind, bits, samples, fill):
    """Not one that is black to its last row."""
    length = row_bytes(WIDTH, bits, samples)
    for have in (0, 1, HEIGHT // 2, HEIGHT - 1):
        data = png(SIZE, bits, kind, rows(have, length, fill), *palette(kind, bits))
        assert code(data) == "truncated_image"
        black = rows(have, length, fill) + rows(HEIGHT - have, length, 0)
        whole = png(SIZE, bits, kind, black, *palette(kind, bits))
        assert pixels(whole).shape == (HEIGHT, WIDTH, 3)


def interlaced(size: tuple[int, int], content: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 1)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header),
         png_chunk(b"IDAT", zlib.compress(content)), png_chunk(b"IEND")]
    )  # fmt: skip


@pytest.mark.parametrize("size", [SIZE, (1, 1), (1, 9), (9, 1), (3, 2), (64, 64)])
def test_an_interlaced_png_whose_stream_ends_at_any_row_of_a_pass_is_truncated(size):
    width, height = size
    lengths = [
        row_bytes(-(-(width - x) // dx), 8, 3)
        for x, y, dx, dy in PASSES
        if x < width
        for _ in range(y, height, dy)
    ]
    for have in range(len(lengths)):
        content = b"".join(rows(1, length) for length in lengths[:have])
        assert code(interlaced(size, content)) == "truncated_image"
    whole = interlaced(size, b"".join(rows(1, length) for length in lengths))
    assert pixels(whole).min() == 255


def test_a_png_in_small_pieces_and_with_bytes_behind_its_early_end_is_truncated():
    stream = zlib.compress(rows(20, row_bytes(WIDTH, 8, 3)))
    start = png(SIZE, 8, 2, b"")[:33]
    for at in (1, 2, 3, len(stream) - 2):
        for behind in (b"", bytes(100), stream):
            pieces = [stream[:at], b"", stream[at:] + behind]
            idat = b"".join(png_chunk(b"IDAT", piece) for piece in pieces)
            assert code(start + idat + png_chunk(b"IEND")) == "truncated_image"


def test_the_first_frame_of_an_animated_png_that_ends_early_is_truncated():
    control = struct.pack(">IIIIIHHBB", 0, 20, 10, 3, 4, 1, 10, 0, 0)
    length = row_bytes(20, 8, 3)
    still = png(SIZE, 8, 2, rows(HEIGHT, row_bytes(WIDTH, 8, 3)))
    for have in (0, 4, 9, 10):
        frame = png_chunk(b"fdAT", bytes(4) + zlib.compress(rows(have, length)))
        data = b"".join(
            [still[:33], png_chunk(b"acTL", struct.pack(">II", 1, 0)), still[33:-12],
             png_chunk(b"fcTL", control), frame, still[-12:]]
        )  # fmt: skip
        if have < 10:
            assert code(data) == "truncated_image"
        else:
            assert pixels(data).min() == 255


@pytest.mark.parametrize("fill", [0, 7])
def test_a_png_with_more_rows_than_its_height_is_answered(fill):
    """Its stream may go on for long: only as much as there are pixels is unpacked."""
    length = row_bytes(WIDTH, 8, 3)
    file = png(SIZE, 8, 2, rows(HEIGHT + 5, length, fill) + bytes(3))
    assert (pixels(file) == fill).all()


def test_a_large_black_png_is_whole():
    """All that its stream unpacks to is gone through, in pieces."""
    picture = Image.new("RGB", (1900, 2000))
    picture.paste(smooth(1900, 500), (0, 0))
    for level in (0, 1, 9):
        data = encode(picture, "PNG", compress_level=level)
        assert np.array_equal(pixels(data), np.asarray(picture))


# JPEG


def jpeg_of(kind: str) -> bytes:
    picture = smooth(150, 110)
    if kind in {"L", "CMYK"}:
        return encode(picture.convert(kind), "JPEG", quality=90)
    options: dict[str, dict[str, Any]] = {
        "baseline": {}, "progressive": {"progressive": True},
        "restarts": {"restart_marker_rows": 1},
        "progressive with restarts": {"progressive": True, "restart_marker_blocks": 3},
        "subsampled": {"subsampling": "4:2:0"}, "RGB": {"keep_rgb": True},
    }  # fmt: skip
    return encode(picture, "JPEG", quality=90, **options[kind])


JPEGS = ["baseline", "progressive", "restarts", "progressive with restarts", "subsampled", "RGB",
         "L", "CMYK"]  # fmt: skip
EXIF = b"\xff\xe1" + struct.pack(">H", 8) + b"Exif\0\0"
UNKNOWN = b"\xff\xeb\0\6spam"
STRAY = b"stray"
OF_NO_KNOWN_VERSION = b"\xff\xe0\0\x10JFIF\0\x09\x09\0\0\1\0\1\0\0"
OF_NO_KNOWN_COLORS = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x09"


@pytest.mark.parametrize("before", [b"", EXIF, UNKNOWN, OF_NO_KNOWN_VERSION, OF_NO_KNOWN_COLORS])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_is_cut_off_and_then_ended_is_truncated(kind, before):
    """Whatever else a decoder warns of first, and at any of its sizes."""
    whole = jpeg_of(kind)
    scan = whole.index(b"\xff\xda") + 20
    for share in (0.1, 0.5, 0.9, 1):
        end = min(scan + int((len(whole) - scan) * share), len(whole) - 6)
        data = whole[:2] + before + whole[2:end] + END
        assert code(data) == "truncated_image"
        assert code(data, DecodePolicy(4_000_000, jpeg_draft_ratio=1)) == "truncated_image"


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_of_fewer_rows_than_its_header_says_is_truncated(kind):
    whole = jpeg_of(kind)
    at = next(whole.index(mark) for mark in (b"\xff\xc0", b"\xff\xc2") if mark in whole) + 5
    for height in (130, 220, 1000):
        data = whole[:at] + struct.pack(">H", height) + whole[at + 2 :]
        assert code(data) == "truncated_image"


@pytest.mark.parametrize("kind", JPEGS)
def test_what_a_decoder_only_warns_of_is_no_reason_to_refuse_a_jpeg(kind):
    whole = jpeg_of(kind)
    expected = pixels(whole)
    for data in (
        whole[:2] + EXIF + UNKNOWN + whole[2:],
        whole[:2] + UNKNOWN + STRAY + whole[2:],
        whole[:-2] + bytes(4) + STRAY + END,
        whole[:-2],
        whole + STRAY,
        whole if kind == "RGB" else whole[:2] + OF_NO_KNOWN_VERSION + whole[2:],
    ):
        assert np.array_equal(pixels(data), expected)


def test_a_progressive_jpeg_without_some_scans_is_truncated():
    """If pixels' coefficients are never told; the last bits of them may be left out."""
    data = jpeg_of("progressive")
    scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    tables = [data.rindex(b"\xff\xc4", 0, scan) for scan in scans]
    starts = [table if table > before else scan
              for before, table, scan in zip([0, *scans], tables, scans, strict=False)]  # fmt: skip
    found = [code_or_answer(data[:start] + END) for start in starts[1:]]
    assert found[0] == "truncated_image"
    assert found[-1] == "answered"
    assert found == sorted(found, reverse=True)


def code_or_answer(data: bytes) -> str:
    try:
        decode_upright(data, POLICY)
    except RequestError as error:
        return error.code
    return "answered"


@pytest.mark.parametrize("ratio", [0, 1, 2])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_is_what_pillow_makes_of_it_at_any_size(kind, ratio):
    data = jpeg_of(kind)
    image = read(data, 10**6)
    with Image.open(io.BytesIO(data)) as expected:
        if ratio:
            least = (150 // 4 * ratio, 110 // 4 * ratio)
            image.reduce(least)
            expected.draft(expected.mode, least)
        assert image.decoded_size == expected.size
        assert np.array_equal(np.asarray(image.to_rgb()), np.asarray(expected.convert("RGB")))


@pytest.mark.parametrize(
    "segment",
    [b"\xff\xee\0\7Adobe", b"\xff\xee\0\x0d" + b"Adobe\0\x64\0\0\0\0", b"\xff\xee\0\2",
     b"\xff\xe0\0\7JFIF\0", b"\xff\xe0\0\x0d" + b"JFIF\0\1\1\0\0\1\0", b"\xff\xe0\0\6JFIF"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["baseline", "progressive", "L"])
def test_segments_of_colours_that_are_too_short_are_passed_over(kind, segment):
    """As libjpeg does it."""
    whole = jpeg_of(kind)
    data = whole[:2] + segment + whole[2:]
    assert np.array_equal(pixels(data), pixels(whole))
    if kind == "L":
        return
    assert np.array_equal(pixels(data), imagecodecs.jpeg8_decode(data, outcolorspace="rgb"))


# GIF and WebP: their decoders tell


def gif_parts(picture: Image.Image, *, interlaced: bool) -> tuple[bytes, bytes]:
    """What lies before a GIF's codes, and these up to the last of their blocks."""
    data = encode(picture, "GIF", interlace=int(interlaced))
    start = at = data.index(b",\0\0\0\0", 13 + (3 << (data[10] & 7) + 1)) + 10
    at += 1
    while data[at]:
        at += 1 + data[at]
    return data[:start], data[start : at + 1]


@pytest.mark.parametrize("interlaced", [False, True])
def test_a_gif_whose_codes_end_early_is_truncated(interlaced):
    """Also if another picture follows, whose codes would be taken for its own."""
    picture = smooth(64, 64).quantize(100)
    head, codes = gif_parts(picture, interlaced=interlaced)
    box = head[-10:]
    assert pixels(head + codes + box + codes + b";").shape == (64, 64, 3)
    for rows in (1, 32, 63):
        _, short = gif_parts(picture.crop((0, 0, 64, rows)), interlaced=interlaced)
        for behind in (b"", (box + codes) * 3, bytes(500), b"; and more" * 50):
            assert code(head + short + behind + b";") == "truncated_image"


def webp_of(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
        for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 12
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((data[at : at + 4], data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    return found


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"alpha_quality": 50}])
def test_a_webp_any_of_whose_chunks_is_too_short_is_refused(options):
    picture = smooth(90, 70)
    if "alpha_quality" in options:
        picture.putalpha(smooth(90, 70, seed=1).convert("L"))
    chunks = chunks_of(encode(picture, "WEBP", quality=90, **options))
    assert pixels(webp_of(*chunks)).shape == (70, 90, 3)
    for at, (kind, content) in enumerate(chunks):
        for share in (0.5, 0.9, 0.98) if kind != b"VP8X" else ():
            short = [*chunks]
            short[at] = kind, content[: int(len(content) * share)]
            assert code(webp_of(*short)) in {"truncated_image", "corrupt_image"}
