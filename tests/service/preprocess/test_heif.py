"""AVIF and, where its decoder is installed, HEIC: as other decoders read them, within limits."""

from __future__ import annotations

import io
import struct

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from heif_files import CODES, FORMATS, box, coded, full, heif_file
from images import encode, smooth
from PIL import Image, ImageOps

from service.errors import RequestError
from service.preprocess import heic
from service.preprocess.bits import Bits
from service.preprocess.decode import DecodePolicy, decode_upright, read

pillow_heif.register_heif_opener()

POLICY = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)


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


@pytest.mark.parametrize("layout", ["420", "422", "444"])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avifs_of_all_depths_are_decoded(bits, layout):
    pixels = np.asarray(smooth(64, 48)).astype(int)
    values = (
        pixels.astype(np.uint8) if bits == 8 else (pixels * (2**bits - 1) // 255).astype(np.uint16)
    )
    data = imagecodecs.avif_encode(values, level=95, bitspersample=bits, pixelformat=layout)
    assert np.abs(np.asarray(decode_upright(bytes(data), POLICY)) - pixels.astype(int)).mean() < 3


def test_an_animation_gives_its_still_image():
    first = smooth(48, 32)
    data = encode(first, "AVIF", save_all=True, append_images=[ImageOps.invert(first)], quality=95)
    assert data[8:12] == b"avis"
    assert (
        np.abs(np.asarray(decode_upright(data, POLICY)) - np.asarray(first).astype(int)).mean() < 4
    )


# Files by hand: what the encoders at hand do not write


def turn(quarters: int) -> bytes:
    return box(b"irot", bytes([quarters]))


def mirror(axis: int) -> bytes:
    return box(b"imir", bytes([axis]))


def clap(width: int, height: int, x: int = 0, y: int = 0) -> bytes:
    return box(b"clap", struct.pack(">IIIIiIiI", width, 1, height, 1, x, 1, y, 1))


def mirrored(pixels: np.ndarray, axis: int) -> np.ndarray:
    """The first axis swaps top and bottom, the second left and right (23008-12, 6.5.12)."""
    return pixels[::-1] if axis == 0 else pixels[:, ::-1]


@pytest.mark.parametrize("cut", [None, (60, 50, 0, 0), (64, 48, -10, 7)])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("image_format", FORMATS)
def test_an_image_is_cut_and_turned_and_mirrored_in_that_order(image_format, quarters, axis, cut):
    item, properties = coded(smooth(128, 96), image_format)
    kind = CODES[image_format][1]
    plain = np.asarray(decode_upright(heif_file(image_format, [(kind, item, properties)]), POLICY))
    more, expected = [], plain
    if cut:
        more.append(clap(*cut))
        left, top = (128 - cut[0]) // 2 + cut[2], (96 - cut[1]) // 2 + cut[3]
        expected = expected[top : top + cut[1], left : left + cut[0]]
    more.append(turn(quarters))
    expected = np.rot90(expected, quarters)
    if axis is not None:
        more.append(mirror(axis))
        expected = mirrored(expected, axis)
    data = heif_file(image_format, [(kind, item, [*properties, *more])])
    found = np.asarray(decode_upright(data, POLICY))
    assert found.shape == expected.shape
    difference = np.abs(found.astype(int) - expected)
    assert difference.max() <= 12, "libheif cuts before it makes pixels of the colours"
    assert difference.mean() < 1.5
    assert read(data, 20_000).size == expected.shape[1::-1]


@pytest.mark.parametrize("more", [[turn(1), clap(40, 60)], [turn(1), turn(1)], [turn(1), turn(2)]])
def test_a_heic_is_turned_and_cut_in_any_order(more):
    """As libheif does it: whole files are not called corrupt."""
    item, properties = coded(smooth(128, 96), "HEIF")
    data = heif_file("HEIF", [(b"hvc1", item, [*properties, *more])])
    assert np.array_equal(np.asarray(decode_upright(data, POLICY)), shown(data))


@pytest.mark.parametrize("size", [(256, 192), (230, 170)])
@pytest.mark.parametrize("more", [[], [turn(1)]])
@pytest.mark.parametrize("image_format", FORMATS)
def test_a_grid_is_put_together(image_format, more, size):
    """Of tiles that may reach beyond it, as phones write them."""
    tiles = [coded(smooth(128, 96, seed), image_format) for seed in range(4)]
    told = b"\0\0\1\1" + struct.pack(">HH", *size)
    shape = full(b"ispe", 0, struct.pack(">II", *size))
    shared = [each for each in tiles[0][1] if each[4:8] in {b"pixi", b"colr"}]
    kind = CODES[image_format][1]
    data = heif_file(
        image_format,
        [(b"grid", told, [shape, *shared, *more]), *((kind, item, own) for item, own in tiles)],
    )
    found = np.asarray(decode_upright(data, POLICY))
    assert np.array_equal(found, shown(data))
    assert sorted(found.shape[:2]) == sorted(size)


@pytest.mark.parametrize("brands", [[b"mif1", b"miaf"], [b"mif1", b"mif1"], [b"miaf", b"mif1"]])
@pytest.mark.parametrize("image_format", FORMATS)
def test_brands_may_leave_open_how_the_image_is_coded(image_format, brands):
    item, properties = coded(smooth(128, 96), image_format)
    items = [(CODES[image_format][1], item, properties)]
    named = heif_file(image_format, items)
    data = heif_file(image_format, items, brands)
    assert np.array_equal(
        np.asarray(decode_upright(data, POLICY)), np.asarray(decode_upright(named, POLICY))
    )


def test_an_image_that_is_coded_otherwise_is_refused_by_name():
    item, properties = coded(smooth(128, 96), "AVIF")
    with pytest.raises(RequestError, match="j2k1") as refusal:
        decode_upright(heif_file("AVIF", [(b"j2k1", item, properties)], [b"mif1"]), POLICY)
    assert refusal.value.code == "unsupported_pixels"


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


def small(image_format: str) -> bytes:
    return encode(smooth(70, 50), image_format, quality=90)


BEHIND = {
    "a newline": b"\n",
    "seven zeros": bytes(7),
    "zeros": bytes(100),
    "text": b"more" * 100,
    "a note of a phone": b"\0\0\x0a\x0a\x08\0\0\0Image_UTC_Data1600000000000SEFH" + bytes(20)
    + b"\x18\0\0\0SEFT",
    "a jpeg": encode(smooth(40, 30), "JPEG"),
    "a film in a box": box(b"mpvd", b"x" * 3000),
    "a film in a box and text": box(b"mpvd", b"x" * 3000) + b"SEFT",
    "a box up to the end": bytes(4) + b"mpvd" + b"x" * 3000,
    "half a head of a large box": b"\0\0\0\1abcd",
    "a box shorter than its head": b"\0\0\0\3abcdefgh",
    "a film": box(b"ftyp", b"mp42\0\0\0\0mp42isom") + box(b"mdat", b"q" * 248),
    "many boxes": box(b"free", b"") * 9000,
}  # fmt: skip


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("image_format", FORMATS)
def test_what_follows_the_boxes_of_the_image_is_passed_over(image_format, behind):
    data = small(image_format)
    longer = data + BEHIND[behind]
    assert np.array_equal(
        np.asarray(decode_upright(longer, POLICY)), np.asarray(decode_upright(data, POLICY))
    )
    assert read(longer, 10_000).peak_bytes() == read(data, 10_000).peak_bytes()


@pytest.mark.parametrize("behind", ["seven zeros", "text", "a film in a box"])
@pytest.mark.parametrize("image_format", FORMATS)
def test_an_image_of_which_bytes_are_missing_is_truncated_whatever_follows(image_format, behind):
    data = small(image_format)
    for cut in (1, 100, len(data) // 2, len(data) - 60):
        assert code(data[:-cut]) == "truncated_image"
