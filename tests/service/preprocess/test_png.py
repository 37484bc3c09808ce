"""PNGs of every colour type, depth and transparency, interlaced or not, and animated ones."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
from images import encode, photo, png, png_chunk
from PIL import Image

from service.errors import RequestError
from service.preprocess.decode import DecodePolicy, decode_upright, read

POLICY = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
KINDS = [
    *((GREY, bits) for bits in (1, 2, 4, 8, 16)), (RGB, 8), (RGB, 16),
    *((PALETTE, bits) for bits in (1, 2, 4, 8)), (GREY_ALPHA, 8), (GREY_ALPHA, 16), (RGBA, 8),
    (RGBA, 16),
]  # fmt: skip
SIZE = (21, 13)
PALETTE_COLORS = np.random.default_rng(5).integers(0, 256, (256, 3), np.uint8)


def samples(kind: int, bits: int) -> np.ndarray:
    width, height = SIZE
    return np.random.default_rng(bits).integers(0, 1 << bits, (height, width, CHANNELS[kind]))


def packed(values: np.ndarray, bits: int) -> bytes:
    """Rows of samples, each with its filter byte."""
    flat = values.reshape(len(values), -1)
    planes = (flat[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)
    rows = np.packbits(planes.reshape(len(values), -1), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in rows)


def file(
    values: np.ndarray, kind: int, bits: int, *chunks: bytes, interlaced: bool = False
) -> bytes:
    height, width, _ = values.shape
    if kind == PALETTE:
        chunks = (png_chunk(b"PLTE", PALETTE_COLORS[: 1 << bits].tobytes()), *chunks)
    if not interlaced:
        return png((width, height), bits, kind, packed(values, bits), *chunks)
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2)]  # fmt: skip
    rows = b"".join(
        packed(values[y::dy, x::dx], bits) for x, y, dx, dy in passes if values[y::dy, x::dx].size
    )
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 1)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header), *chunks,
         png_chunk(b"IDAT", zlib.compress(rows)), png_chunk(b"IEND")]
    )  # fmt: skip


def on_white(data: bytes, bits: int) -> np.ndarray:
    """What libpng reads, through imagecodecs, as colours on white from 0 to 255."""
    values = imagecodecs.png_decode(data)
    values = values[..., None] if values.ndim == 2 else values
    values = values / np.iinfo(values.dtype).max * 255
    if values.shape[-1] in {2, 4}:
        alpha = values[..., -1:] / 255
        values = values[..., :-1] * alpha + 255 * (1 - alpha)
    return np.broadcast_to(values, (*values.shape[:2], 3))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "bits"), KINDS)
def test_pngs_are_what_libpng_reads(kind, bits, interlaced):
    data = file(samples(kind, bits), kind, bits, interlaced=interlaced)
    found = np.asarray(decode_upright(data, POLICY))
    assert np.abs(found - on_white(data, bits)).max() <= (2 if kind in {GREY_ALPHA, RGBA} else 1)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("kind", "bits"), [pair for pair in KINDS if pair[0] in {GREY, RGB}])
def test_only_just_the_transparent_color_is_white(kind, bits, interlaced):
    """Of 16 bits also the low ones count."""
    values = samples(kind, bits)
    values[3:6, 4:9] = values[0, 0]
    if bits == 16:
        values[7:9, 4:9] = values[0, 0] ^ 1
    told = struct.pack(f">{CHANNELS[kind]}H", *values[0, 0])
    data = file(values, kind, bits, png_chunk(b"tRNS", told), interlaced=interlaced)
    is_clear = (values == values[0, 0]).all(axis=-1)
    opaque = np.asarray(decode_upright(file(values, kind, bits), POLICY))
    expected = np.where(is_clear[..., None], 255, opaque)
    assert is_clear.sum() > 15
    assert np.array_equal(np.asarray(decode_upright(data, POLICY)), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_transparent_palette_entries_are_mixed_with_white(bits):
    values = samples(PALETTE, bits)
    alpha = np.array([0, 128], np.uint8)
    data = file(values, PALETTE, bits, png_chunk(b"tRNS", alpha.tobytes()))
    share = np.full(256, 255.0)
    share[:2] = alpha
    mix = share[values] / 255
    expected = PALETTE_COLORS[values[..., 0]] * mix + 255 * (1 - mix)
    assert np.abs(np.asarray(decode_upright(data, POLICY)) - expected).max() <= 1


# Animated: the first frame


def control(number: int, size: tuple[int, int], at: tuple[int, int] = (0, 0)) -> bytes:
    return png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, *size, *at, 1, 10, 0, 0))


def animated(still: np.ndarray, *after: bytes, before: bytes = b"") -> bytes:
    height, width, _ = still.shape
    header = struct.pack(">IIBBBBB", width, height, 8, RGB, 0, 0, 0)
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", png_chunk(b"IHDR", header),
         png_chunk(b"acTL", struct.pack(">II", 1, 0)), before,
         png_chunk(b"IDAT", zlib.compress(packed(still, 8))), *after, png_chunk(b"IEND")]
    )  # fmt: skip


def moving(number: int, values: np.ndarray) -> bytes:
    return png_chunk(b"fdAT", struct.pack(">I", number) + zlib.compress(packed(values, 8)))


A = np.asarray(photo(30, 20)).astype(int)
B = 255 - A


def test_the_first_frame_is_the_still_image_where_that_is_a_frame():
    data = animated(A, control(1, (30, 20)), moving(2, B), before=control(0, (30, 20)))
    assert np.array_equal(np.asarray(decode_upright(data, POLICY)), A)


def test_the_first_frame_may_be_another_than_the_still_image():
    data = animated(A, control(0, (30, 20)), moving(1, B), control(2, (30, 20)), moving(3, A))
    assert np.array_equal(np.asarray(decode_upright(data, POLICY)), B)


def test_a_first_frame_may_cover_a_part_of_the_canvas():
    data = animated(A, control(0, (9, 6), (4, 5)), moving(1, B[:6, :9]))
    expected = np.full((20, 30, 3), 255)
    expected[5:11, 4:13] = B[:6, :9]
    assert np.array_equal(np.asarray(decode_upright(data, POLICY)), expected)


def test_a_frame_beyond_the_canvas_is_refused():
    data = animated(A, control(0, (30, 20), (1, 0)), moving(1, B))
    with pytest.raises(RequestError, match="not within"):
        decode_upright(data, POLICY)


STILL = [control(0, (30, 20)), moving(1, B)]


@pytest.mark.parametrize(
    "told",
    [png_chunk(b"acTL", bytes(8)), png_chunk(b"acTL", struct.pack(">II", 1, 0))[:-1] + b"?"],
)
def test_an_animation_of_no_frames_or_a_damaged_one_is_its_still_image(told):
    data = animated(A, *STILL)
    known = png_chunk(b"acTL", struct.pack(">II", 1, 0))
    assert np.array_equal(np.asarray(decode_upright(data, POLICY)), B)
    assert np.array_equal(np.asarray(decode_upright(data.replace(known, told), POLICY)), A)


def test_a_first_frame_that_breaks_off_is_truncated():
    """The still image is another picture."""
    with pytest.raises(RequestError) as refusal:
        decode_upright(animated(A, *STILL)[:-30], POLICY)
    assert refusal.value.code == "truncated_image"


def spoiled(chunk: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


ORIENTATION = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x112, 3, 1, 6, 0)
NOTHING = {
    "texts": spoiled(png_chunk(b"tEXt", b"a\0b")),
    "EXIF": spoiled(png_chunk(b"eXIf", ORIENTATION)),
    "a transparent colour": spoiled(png_chunk(b"tRNS", struct.pack(">HHH", *A[0, 0]))),
    "a transparent colour that is short": png_chunk(b"tRNS", struct.pack(">H", A[0, 0, 0])),
    "a transparent colour that is long": png_chunk(b"tRNS", struct.pack(">HHHH", *A[0, 0], 0)),
    "no transparent colour": png_chunk(b"tRNS"),
    "suggested palettes": png_chunk(b"PLTE", bytes(12)) * 2,
    "a damaged suggested palette": spoiled(png_chunk(b"PLTE", bytes(12))),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_what_no_pixel_needs_may_be_damaged(kind):
    """Libpng passes it over with a warning, and so do browsers."""
    data = png((30, 20), 8, RGB, packed(A, 8), NOTHING[kind])
    assert np.array_equal(imagecodecs.png_decode(data)[..., :3], A)
    assert np.array_equal(np.asarray(decode_upright(data, POLICY)), A)


def test_of_several_transparent_colors_the_first_counts():
    first, second = (png_chunk(b"tRNS", struct.pack(">HHH", *A[0, x])) for x in (0, 9))
    data = png((30, 20), 8, RGB, packed(A, 8), first, second)
    once = png((30, 20), 8, RGB, packed(A, 8), first)
    assert np.array_equal(
        np.asarray(decode_upright(data, POLICY)), np.asarray(decode_upright(once, POLICY))
    )


@pytest.mark.parametrize(
    "chunks",
    [
        [png_chunk(b"PLTE", PALETTE_COLORS[:4].tobytes()), png_chunk(b"tRNS", bytes(5))],
        [png_chunk(b"tRNS", bytes(2)), png_chunk(b"PLTE", PALETTE_COLORS[:4].tobytes())],
        [png_chunk(b"PLTE", PALETTE_COLORS[:4].tobytes()), png_chunk(b"tRNS")],
    ],
)
def test_transparency_that_does_not_fit_its_palette_is_none(chunks):
    """As libpng has it: more of it than colours, before them, or of none."""
    values = samples(PALETTE, 2)
    data = png(SIZE, 2, PALETTE, packed(values, 2), *chunks)
    assert imagecodecs.png_decode(data).shape[-1] == 3
    expected = PALETTE_COLORS[values[..., 0]]
    assert np.array_equal(np.asarray(decode_upright(data, POLICY)), expected)


def test_two_palettes_are_refused():
    data = file(samples(PALETTE, 8), PALETTE, 8, png_chunk(b"PLTE", bytes(768)))
    with pytest.raises(RequestError, match="several palettes"):
        decode_upright(data, POLICY)


@pytest.mark.parametrize("behind", [b"", b"junk", b"j" * 60])
def test_the_end_may_lack_its_mark(behind):
    data = png((30, 20), 8, RGB, packed(A, 8))
    assert np.array_equal(np.asarray(decode_upright(data[:-12] + behind, POLICY)), A)


# What Pillow never gets


def test_a_large_profile_and_texts_are_no_reason_to_refuse():
    noise = np.random.default_rng(0).bytes(1_200_000)
    chunks = [
        png_chunk(b"iCCP", b"scanner\0\0" + zlib.compress(noise)),
        png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(noise)),
        png_chunk(b"eXIf", b"II*\0" + noise),
    ]
    data = png((30, 20), 8, RGB, packed(A, 8), *chunks)
    assert np.array_equal(np.asarray(decode_upright(data, POLICY)), A)
    encoded: Any = read(data, 600)
    assert len(encoded.data) < 3000


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"IDAT"])
def test_a_wrong_checksum_of_what_pixels_are_made_of_is_corrupt(kind):
    data = bytearray(file(samples(PALETTE, 8), PALETTE, 8))
    length = int.from_bytes(data[data.index(kind) - 4 : data.index(kind)])
    data[data.index(kind) + 4 + length] ^= 1
    with pytest.raises(RequestError, match=f"checksum of its chunk '{kind.decode()}'"):
        decode_upright(bytes(data), POLICY)


def test_apples_own_kind_is_refused_by_name():
    data = encode(Image.new("RGB", (8, 8)), "PNG")
    with pytest.raises(RequestError, match="CgBI") as refusal:
        decode_upright(data[:8] + png_chunk(b"CgBI", bytes(4)) + data[8:], POLICY)
    assert refusal.value.code == "unsupported_pixels"
