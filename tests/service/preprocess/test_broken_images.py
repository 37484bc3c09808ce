"""Bad images: each gets the error of its cause, and nothing gets past the documented ones."""

from __future__ import annotations

import io
import itertools
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from images import claiming, encode, photo, png, png_chunk, tiff
from PIL import Image

from service.contract import Preprocessing
from service.errors import RequestError
from service.preprocess.decode import (
    FORMATS,
    DecodedImage,
    DecodePolicy,
    decode,
    decode_upright,
    read,
)
from service.preprocess.plain_jpeg import plain_size

RULE = Preprocessing(resize=8, crop=8, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1))
POLICY = DecodePolicy(max_image_pixels=50_000_000, jpeg_draft_ratio=4)

EMPTY = (422, "empty_image")
NOT_AN_IMAGE = (415, "not_an_image")
TOO_LARGE = (413, "image_too_large")
TRUNCATED = (422, "truncated_image")
CORRUPT = (422, "corrupt_image")
UNSUPPORTED = (422, "unsupported_pixels")


def outcome(data: bytes, policy: DecodePolicy = POLICY) -> tuple[int, str] | DecodedImage:
    """The decoded image, or the refusal's status and code; any other exception is let through."""
    try:
        return decode(data, RULE, policy)
    except RequestError as error:
        return error.status, error.code


def refused(data: bytes, policy: DecodePolicy = POLICY) -> tuple[int, str]:
    result = outcome(data, policy)
    assert not isinstance(result, DecodedImage), "was answered"
    return result


def message(data: bytes) -> str:
    with pytest.raises(RequestError) as refusal:
        decode(data, RULE, POLICY)
    text = str(refusal.value)
    assert "\n" not in text
    assert len(text) < 300
    return text


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
NO_IMAGES = {
    "zero byte": b"\0",
    "text": b"Hello, is this an image?",
    "text that begins as a bitmap does": b"BMW and other makes",
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "eps": EPS,
    "eps with a preview": b"\xc5\xd0\xd3\xc6" + struct.pack("<IIIIII", 30, len(EPS), 0, 0, 0, 0)
    + b"\0\0" + EPS,
    "zip": b"PK\x03\x04" + bytes(40),
    "json": b'{"images": []}',
    "ppm": b"P6 2 2 255\n" + bytes(12),
    "icon": b"\0\0\x01\0\x01\0" + bytes(40),
    "photoshop": b"8BPS\0\x01" + bytes(40),
    "jpeg 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "mp4": b"\0\0\0\x1cftypisom" + bytes(40),
    "riff that is sound": b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(28),
}  # fmt: skip


def test_no_bytes_are_an_empty_image():
    assert refused(b"") == EMPTY


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES.keys())
def test_content_of_no_accepted_format_is_not_an_image(data):
    assert refused(data) == NOT_AN_IMAGE
    for image_format in FORMATS:
        assert image_format in message(data)


@pytest.mark.parametrize("image_format", ["PPM", "ICO", "PCX", "TGA", "JPEG2000"])
def test_a_good_image_of_another_format_is_not_an_accepted_one(image_format):
    assert refused(encode(Image.new("RGB", (16, 16)), image_format)) == NOT_AN_IMAGE


def test_no_other_decoder_is_ever_asked(monkeypatch):
    """An EPS file must not reach Ghostscript; even to ask a decoder is to trust its parser."""
    asked = []

    def factory_of(name):
        return (lambda *_: asked.append(name), lambda _: asked.append(name))

    assert "EPS" in Image.OPEN, "Pillow does have its decoder"
    for name in set(Image.OPEN) - set(FORMATS):
        monkeypatch.setitem(Image.OPEN, name, factory_of(name))
    for data in NO_IMAGES.values():
        assert refused(data) == NOT_AN_IMAGE
    assert asked == []


# Cut off and damaged

GRAIN = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8))
KINDS = {
    "jpeg": encode(GRAIN, "JPEG"),
    "progressive jpeg": encode(GRAIN, "JPEG", progressive=True),
    "png": encode(GRAIN, "PNG"),
    "webp": encode(GRAIN, "WEBP"),
    "lossless webp": encode(GRAIN, "WEBP", lossless=True),
    "gif": encode(GRAIN.quantize(256), "GIF"),
    "bmp": encode(GRAIN, "BMP"),
    "tiff": encode(GRAIN, "TIFF"),
    "packed tiff": encode(GRAIN, "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("percent", [1, 5, 25, 50, 75, 95])
def test_an_image_that_is_cut_off_is_refused(kind, percent):
    """A part of the pixels is no image: grey where the rest should be would get labels."""
    data = KINDS[kind]
    cut = data[: len(data) * percent // 100]
    assert refused(cut) in (TRUNCATED, CORRUPT, NOT_AN_IMAGE)


@pytest.mark.parametrize("kind", ["jpeg", "progressive jpeg", "png", "gif", "bmp", "tiff"])
def test_an_image_that_is_cut_off_among_its_pixels_is_called_truncated(kind):
    data = KINDS[kind]
    assert refused(data[: len(data) * 3 // 4]) == TRUNCATED


@pytest.mark.parametrize("kind", KINDS)
def test_wherever_an_image_is_cut_off_it_is_answered_or_refused(kind):
    """Only what ends a file after its pixels can be missed."""
    data = KINDS[kind]
    refusals = [outcome(data[:size]) for size in range(0, len(data), 61)]
    assert all(
        isinstance(result, DecodedImage) or result in (EMPTY, TRUNCATED, CORRUPT, NOT_AN_IMAGE)
        for result in refusals
    )


@pytest.mark.parametrize(
    "data",
    [
        KINDS["jpeg"][:30],
        KINDS["png"][:20],
        KINDS["webp"][:16],
        KINDS["gif"][:9],
        KINDS["bmp"][:40],
        KINDS["tiff"][:20],
        b"MM\0*" + bytes(30),
    ],
    ids=["jpeg", "png", "webp", "gif", "bmp", "tiff", "big-endian tiff"],
)
def test_a_broken_header_is_told_from_no_image_at_all(data):
    """The sender of a damaged PNG learns that it is damaged, not that PNG is unknown."""
    assert refused(data) in (CORRUPT, TRUNCATED)


KINDS_TO_DAMAGE = KINDS | {
    "jpeg with exif": encode(GRAIN, "JPEG", exif=Image.Exif(), icc_profile=b"x" * 60),
    "multi-picture jpeg": encode(GRAIN, "MPO", save_all=True, append_images=[GRAIN.copy()]),
    "palette png": encode(GRAIN.quantize(16), "PNG", transparency=3),
    "animated png": encode(GRAIN, "PNG", save_all=True, append_images=[photo(64, 48)]),
    "animated webp": encode(GRAIN, "WEBP", save_all=True, append_images=[photo(64, 48)]),
    "animated gif": encode(GRAIN, "GIF", save_all=True, append_images=[photo(64, 48)]),
    "palette bmp": encode(GRAIN.quantize(16), "BMP"),
    "bits in a tiff": encode(GRAIN.convert("1"), "TIFF", compression="group4"),
}
ODD_WORDS = [struct.pack(f"{order}I", n) for order in "<>" for n in (0, 1, 65536, 2**31, 2**32 - 1)]


@st.composite
def damaged(draw, data: bytes) -> bytes:
    """A few changes, more of them near the start, where the lengths and offsets are."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        near = draw(st.sampled_from([64, 400, len(changed)]))
        at = draw(st.integers(0, min(near, len(changed)) - 1))
        piece = draw(st.binary(min_size=1, max_size=6) | st.sampled_from(ODD_WORDS))
        kind = draw(st.sampled_from(["replace", "insert", "delete", "flip"]))
        if kind == "replace":
            changed[at : at + len(piece)] = piece
        elif kind == "insert":
            changed[at:at] = piece
        elif kind == "delete":
            del changed[at : at + len(piece)]
        else:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        if not changed:
            break
    return bytes(changed)


def with_good_checksums(data: bytes) -> bytes:
    """A damaged PNG whose chunks all have good checksums, so that the damage is looked at."""
    pieces, at = [data[:8]], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            break
        pieces.append(png_chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return b"".join([*pieces, data[at:]])


@pytest.mark.parametrize("kind", KINDS_TO_DAMAGE)
@given(values=st.data())
@settings(max_examples=60)
def test_a_damaged_image_is_answered_or_refused(kind, values):
    """Whatever Pillow makes of it: never an error that would be answered with 500."""
    data = values.draw(damaged(KINDS_TO_DAMAGE[kind]))
    if "png" in kind:
        data = with_good_checksums(data)
    result = outcome(data, DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=4))
    assert isinstance(result, DecodedImage) or result in (
        EMPTY, NOT_AN_IMAGE, TOO_LARGE, TRUNCATED, CORRUPT, UNSUPPORTED,
    )  # fmt: skip


def test_a_palette_image_without_a_palette_is_corrupt():
    rows = bytes(9) * 8
    assert refused(png((8, 8), 8, 3, rows)) == CORRUPT
    assert "palette" in message(png((8, 8), 8, 3, rows))


@pytest.mark.parametrize("size", [(0, 8), (8, 0), (0, 0)])
@pytest.mark.parametrize("image_format", ["PNG", "GIF", "BMP", "TIFF"])
def test_an_image_without_pixels_is_refused(image_format, size):
    assert refused(claiming(image_format, *size)) in (CORRUPT, TRUNCATED, NOT_AN_IMAGE)


def test_a_tiff_of_a_kind_that_is_not_decoded_is_unsupported_and_says_why():
    data = tiff(bytes(8 * 8 * 8), width=8, height=8, bits=[64], photometric=1, sample_format=3)
    assert refused(data) == UNSUPPORTED
    assert "64-bit floats" in message(data)


# Large in the header, or small and much to do


@pytest.mark.parametrize("size", [(60_000, 60_000), (65_000, 800), (800, 65_000)])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "BMP", "TIFF"])
def test_too_many_pixels_are_refused_by_the_header(image_format, size):
    """There are no pixels in these files: to decode them would give another error."""
    data = claiming(image_format, *size)
    assert len(data) < 1000
    assert refused(data) == TOO_LARGE
    assert "max_image_pixels" in message(data)


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1)])
@pytest.mark.parametrize("image_format", ["PNG", "BMP", "TIFF"])
def test_a_side_beyond_what_a_jpeg_can_have_is_refused_by_the_header(image_format, size):
    """Few pixels, but Pillow keeps an address for each row."""
    assert refused(claiming(image_format, *size)) == TOO_LARGE
    assert "65535 on a side" in message(claiming(image_format, *size))


def test_a_webp_of_the_largest_size_is_refused_by_the_header():
    assert refused(claiming("WEBP", 16_383, 16_383)) == TOO_LARGE


@pytest.mark.parametrize("image_format", FORMATS)
def test_one_pixel_too_many_is_refused(image_format):
    data = encode(photo(40, 30), image_format)
    assert isinstance(outcome(data, DecodePolicy(1200, 0)), DecodedImage)
    assert refused(data, DecodePolicy(1199, 0)) == TOO_LARGE


def test_the_pixels_are_never_decoded_when_they_are_too_many(monkeypatch):
    def load(self):
        raise AssertionError("decoded")

    data = encode(photo(40, 30), "PNG")
    with Image.open(io.BytesIO(data)) as image:
        monkeypatch.setattr(type(image), "load", load)
    assert refused(data) == CORRUPT, "decoding it would fail"
    assert refused(data, DecodePolicy(1199, 0)) == TOO_LARGE


BOMB = zlib.compress(bytes(100_000_000), 9)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"zTXt", b"Comment\0\0" + BOMB),
        png_chunk(b"iTXt", b"Comment\0\1\0\0\0" + BOMB),
        png_chunk(b"iCCP", b"profile\0\0" + BOMB),
    ],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_metadata_that_unpacks_to_far_more_is_left_packed(chunk):
    """100 KB that would become 100 MB, and that no pixel depends on."""
    data = png((8, 8), 8, 0, bytes(9) * 8, chunk)
    assert len(data) < 200_000
    assert isinstance(outcome(data), DecodedImage)
    encoded: Any = read(data, 64)
    assert len(encoded.data) < 200


def test_pixels_beyond_the_images_own_are_left_packed():
    """A PNG's data may unpack to more than its size says; only that much is unpacked."""
    result = outcome(png((8, 8), 8, 0, bytes(50_000_000)))
    assert isinstance(result, DecodedImage)
    assert (result.width, result.height) == (8, 8)


def test_a_tile_larger_than_the_image_counts_as_pixels():
    """A TIFF of 10 x 10 pixels whose one tile is 16,384 wide and high would take 256 MB."""
    tile = zlib.compress(bytes(64 * 64))
    of = {"width": 10, "height": 10, "bits": [8], "photometric": 1, "compression": 8}
    good = tiff(tile, tile_width=64, tile_height=64, **of)
    assert isinstance(outcome(good), DecodedImage)
    assert refused(tiff(tile, tile_width=16_384, tile_height=16_384, **of)) == TOO_LARGE
    assert refused(good, DecodePolicy(64 * 64 - 1, 0)) == TOO_LARGE


def segments_of(data: bytes) -> list[bytes]:
    """Each segment with what follows it, up to the next; the first is the mark of the start."""
    starts = [0]
    while data[starts[-1] + 1] != 0xD9:
        at = starts[-1] + 2
        at += int.from_bytes(data[at : at + 2]) if starts[-1] else 0
        while data[at] != 0xFF or data[at + 1] == 0:
            at += 1
        starts.append(at)
    return [data[a:b] for a, b in itertools.pairwise([*starts, len(data)])]


def progressive(side: int, bands: int) -> bytes:
    """A flat progressive JPEG whose coefficients are in so many scans behind the first one."""
    data = encode(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    *parts, end = segments_of(data)
    scans = [i for i, part in enumerate(parts) if part[1] == 0xDA]
    table, scan = parts[scans[1] - 1 : scans[1] + 1]
    assert (table[1], scan[7:9]) == (0xC4, b"\1\5"), "a band of coefficients, and its codes"
    edges = [1, *(64 - bands + i for i in range(1, bands)), 64]
    return b"".join(
        [*parts[: scans[0] + 1], table,
         *(scan[:7] + bytes([first, after - 1, 0]) + scan[10:]
           for first, after in itertools.pairwise(edges)), end]
    )  # fmt: skip


def test_a_progressive_jpeg_of_very_many_scans_is_refused():
    """Encoders make ten, and those that try for the smallest file some twenty."""
    assert isinstance(outcome(progressive(64, 31)), DecodedImage)
    assert refused(progressive(64, 32)) == TOO_LARGE
    assert "more than 32 scans" in message(progressive(64, 60))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_progressive_jpeg_that_gives_some_bits_again_is_refused(mode):
    """Each pass goes over all the pixels: 200 KB of 7000 x 7000 could keep a thread for long."""
    data = encode(GRAIN.convert(mode), "JPEG", progressive=True)
    *parts, end = segments_of(data)
    scans = [i for i, part in enumerate(parts) if part[1] == 0xDA]
    assert isinstance(outcome(b"".join([*parts, end])), DecodedImage)
    for at in scans:
        table = parts[at - 1] if parts[at - 1][1] == 0xC4 else b""
        again = b"".join([*parts, table, parts[at], end])
        assert refused(again) == CORRUPT
        assert "repeats another" in message(again)


def test_scans_of_what_follows_a_progressive_jpeg_do_not_count():
    """A phone puts other pictures behind its own."""
    data = encode(GRAIN, "JPEG", progressive=True)
    assert isinstance(outcome(data + progressive(64, 60)), DecodedImage)


@pytest.mark.parametrize("cut", [1, 2])
def test_a_progressive_jpeg_that_lacks_only_its_end_marker_is_whole(cut):
    data = encode(GRAIN, "JPEG", progressive=True)
    whole, short = outcome(data), outcome(data[:-cut])
    assert isinstance(whole, DecodedImage)
    assert isinstance(short, DecodedImage)
    np.testing.assert_array_equal(whole.pixels, short.pixels)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_jpeg_that_lacks_more_is_truncated(mode):
    """Also if it breaks off between two scans, where no code is cut in two."""
    data = encode(GRAIN.convert(mode), "JPEG", progressive=True)
    scans = [at for at in range(len(data)) if data.startswith(b"\xff\xda", at)]
    assert len(scans) > 3
    for end in (*scans[1:], len(data) - 30):
        assert refused(data[:end]) == TRUNCATED
    assert isinstance(outcome(data[:-2]), DecodedImage)


def baseline_in_scans(side: int, more: int) -> bytes:
    """A baseline JPEG of one scan for each colour, whose last one comes again."""
    data = encode(Image.new("L", (side, side), 90), "JPEG")
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    colors = b"".join(bytes([color, 0x11, 0]) for color in (1, 2, 3))
    size = struct.pack(">BBHBHHB", 0xFF, 0xC0, 17, 8, side, side, 3)
    head = data[:frame] + size + colors + data[frame + 13 : scan]
    parts = [data[scan : scan + 5] + bytes([color]) + data[scan + 6 : -2] for color in (1, 2, 3)]
    return head + b"".join(parts) + parts[-1] * more + data[-2:]


@pytest.mark.parametrize("more", [1, 29])
def test_a_baseline_jpeg_that_gives_a_colour_again_is_refused(more):
    """Its scans go over all the pixels just as a progressive one's do."""
    assert isinstance(outcome(baseline_in_scans(64, 0)), DecodedImage)
    assert refused(baseline_in_scans(64, more)) == CORRUPT


def test_a_baseline_jpeg_whose_only_scan_is_of_one_colour_is_left_to_pillow():
    """Where what it takes of memory is counted."""
    data = baseline_in_scans(64, 0)
    first = data[: data.index(b"\xff\xda", data.index(b"\xff\xda") + 1)]
    assert plain_size(first + b"\xff\xd9") is None


@pytest.mark.parametrize(
    ("piece", "form"),
    [(b"\xff\xe4\0\2", "JPEG"), (png_chunk(b"teSt", b""), "PNG")],
    ids=["segments", "chunks"],
)
def test_a_file_of_very_many_pieces_is_refused(piece: bytes, form: str):
    """They are gone through in Python: 32 MB of the smallest would take it ten seconds."""
    data = encode(photo(40, 30), form, **({"progressive": True} if form == "JPEG" else {}))
    at = 2 if form == "JPEG" else 33  # after the first, which says the size
    assert isinstance(outcome(data[:at] + piece * 500 + data[at:]), DecodedImage)
    assert refused(data[:at] + piece * 200_000 + data[at:]) == CORRUPT


def test_png_pixels_in_very_many_pieces_are_refused():
    rows = np.random.default_rng(0).integers(0, 256, (500, 501), np.uint8)
    rows[:, 0] = 0  # no filter
    pixels = zlib.compress(rows.tobytes())
    data = encode(Image.new("L", (500, 500)), "PNG")
    assert isinstance(outcome(data[:33] + png_chunk(b"IDAT", pixels) + data[-12:]), DecodedImage)
    small = b"".join(png_chunk(b"IDAT", pixels[at : at + 1]) for at in range(len(pixels)))
    assert "far too many pieces" in message(data[:33] + small + data[-12:])


def test_a_compressed_bmp_is_decoded_though_it_is_read_byte_by_byte():
    """RLE8: runs of a length and a colour, two zeros after each row."""
    colors = np.random.default_rng(0).integers(0, 256, (200, 300), np.uint8)
    runs = b"".join(
        b"".join(b"\1" + bytes([color]) for color in row) + b"\0\0" for row in colors.tolist()
    )
    palette = b"".join(bytes([n, n, n, 0]) for n in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, 300, 200, 1, 8, 1, len(runs) + 2, 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    file = struct.pack("<2sIHHI", b"BM", start + len(runs) + 2, 0, 0, start)
    data = file + header + palette + runs + b"\0\1"
    assert len(data) > 100_000
    upright = decode_upright(data, POLICY)
    np.testing.assert_array_equal(np.asarray(upright)[::-1, :, 0], colors)


def tiff_of(
    entries: list[tuple[int, int, int, int]], tail: bytes = b"", big: bool = False
) -> bytes:
    """A TIFF of these tags: number, type, count, and value or offset."""
    size, count, entry = ("<Q", "<Q", "<HHQQ") if big else ("<I", "<H", "<HHII")
    head = b"II+\0" + struct.pack("<HH", 8, 0) if big else b"II*\0"
    at = len(head) + struct.calcsize(size)
    packed = b"".join(struct.pack(entry, *each) for each in entries)
    return (
        head + struct.pack(size, at) + struct.pack(count, len(entries)) + packed + bytes(8) + tail
    )


def grey(side: int, more: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
    return sorted(
        [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
         (277, 3, 1, 1), *more]
    )  # fmt: skip


@pytest.mark.parametrize("kind", [1, 2, 6, 7])
@pytest.mark.parametrize("form", [b"II*\0", b"II\0*", b"II+\0"])
def test_a_tiff_of_very_many_strips_is_refused(kind: int, form: bytes):
    """As numbers of Python's they would take many times the file."""
    tail = bytes(1_000_000)
    tags = grey(2, [(273, kind, len(tail), 150), (278, 4, 1, 1), (279, 4, 1, 2)])
    data = form + tiff_of(tags, tail, big=form == b"II+\0")[4:]
    assert "its tag 273" in message(data)


def test_a_tiff_whose_strips_share_their_data_is_refused():
    offsets = struct.pack("<64I", *[4100] * 64)
    tags = grey(64, [(273, 4, 64, 126), (278, 4, 1, 1), (279, 4, 1, 64)])
    data = tiff_of(tags, offsets.ljust(4100, b"\0"))
    assert isinstance(outcome(data), DecodedImage), "as many bytes as there are"
    tags = grey(640, [(273, 4, 640, 126), (278, 4, 1, 1), (279, 4, 1, 640)])
    offsets = struct.pack("<640I", *[4100] * 640)
    assert refused(tiff_of(tags, offsets.ljust(4100 + 640, b"\0"))) == CORRUPT


def test_what_follows_a_jpegs_pixels_is_not_taken_for_scans():
    """A phone puts a film behind its photo, in which any two bytes may be."""
    policy = DecodePolicy(max_image_pixels=40 * 30, jpeg_draft_ratio=4)
    data = encode(photo(40, 30), "JPEG") + b"\xff\xda" * 1000
    assert isinstance(outcome(data, policy), DecodedImage)


def test_the_decoder_gets_no_exif_segment_however_many_there_are():
    """Pillow joins them one by one: 32 MB of small ones take it half an hour."""
    data = encode(photo(40, 30), "JPEG")
    segment = b"\xff\xe1" + struct.pack(">H", 12) + b"Exif\0\0MM\0*"
    for many in (100, 9000):
        image = data[:2] + segment * many + data[2:]
        assert isinstance(outcome(image), DecodedImage)
        encoded: Any = read(image, 1200)
        assert encoded.data == data
    assert refused(data[:2] + segment * 10_001 + data[2:]) == CORRUPT


@pytest.mark.parametrize("between", [b"", b"\xff", b"\0", b"\xff\xd0"])
def test_a_few_exif_segments_are_no_reason_to_refuse(between):
    """Nor is what the pixels or another file behind them happen to hold."""
    exif = b"\xff\xe1" + struct.pack(">H", 8) + b"Exif\0\0"
    data = encode(photo(40, 30), "JPEG")
    image = data[:2] + (exif + between) * 5 + data[2:]
    assert isinstance(outcome(image), DecodedImage)
    if not between:
        assert isinstance(outcome(image + exif * 2000), DecodedImage)


# Small files that would take long


def within(data: bytes, seconds: float = 5) -> tuple[int, str] | DecodedImage:
    """The outcome; the processor time is far below that bound, and was minutes."""
    start = time.process_time()
    result = outcome(data)
    assert time.process_time() - start < seconds
    return result


def test_a_jpeg_of_nothing_but_fill_bytes_is_truncated():
    assert within(b"\xff\xd8" + b"\xff" * 1_000_000) == TRUNCATED


def test_exif_that_begins_again_and_again_turns_nothing():
    exif = b"Exif\0\0" * 200_000
    data = encode(photo(40, 30), "PNG")
    assert isinstance(within(data[:33] + png_chunk(b"eXIf", exif) + data[33:]), DecodedImage)
    webp = encode(photo(40, 30), "WEBP", exif=exif)
    assert isinstance(within(webp), DecodedImage)


def test_a_gif_of_xmp_without_its_trailer_is_refused():
    data = encode(GRAIN.quantize(64), "GIF")
    at = 13 + (3 << (data[10] & 7) + 1)
    block = b"!\xff\x0bXMP DataXMP\0"
    assert within(data[:at] + block * 140_000 + data[at:]) == CORRUPT


def test_a_gif_of_zeros_before_its_picture_is_refused():
    data = encode(GRAIN.quantize(64), "GIF")
    at = 13 + (3 << (data[10] & 7) + 1)
    assert within(data[:at] + bytes(5_000_000) + data[at:]) == CORRUPT


def test_very_many_segments_between_scans_are_refused():
    data = KINDS["progressive jpeg"]
    at = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    assert within(data[:at] + b"\xff\xfe\0\2" * 1_000_000 + data[at:]) == CORRUPT


def with_places(data: bytes, body: bytes) -> bytes:
    """An AVIF whose box of places has another content."""
    at = data.index(b"iloc") - 4
    end = at + int.from_bytes(data[at : at + 4])
    iloc = struct.pack(">I", 8 + len(body)) + b"iloc" + body
    meta = data.index(b"meta") - 4
    grown = int.from_bytes(data[meta : meta + 4]) + len(iloc) - (end - at)
    return data[:meta] + struct.pack(">I", grown) + data[meta + 4 : at] + iloc + data[end:]


@pytest.mark.parametrize("version", [1, 2])
def test_places_of_no_size_in_an_avif_are_refused(version):
    """Each takes no byte of the file."""
    count = struct.pack(">H" if version == 1 else ">I", 2000)
    one = struct.pack(">HHHH" if version == 1 else ">IHHH", 9, 0, 0, 65_535)
    body = bytes([version, 0, 0, 0, 0, 0]) + count + one * 2000
    assert within(with_places(encode(GRAIN, "AVIF"), body)) == CORRUPT


def test_places_that_share_their_bytes_are_refused():
    """Joined, they would be gigabytes of a file of some."""
    data = encode(GRAIN, "AVIF")
    head = bytes([0, 0, 0, 0, 0x44, 0]) + struct.pack(">HHHH", 1, 1, 0, 3000)
    start = len(with_places(data, head + bytes(8 * 3000))) - len(data) + data.index(b"mdat") + 4
    place = struct.pack(">II", start, 500)
    assert "share their data" in message(with_places(data, head + place * 3000))
    one = head[:-2] + b"\0\1" + struct.pack(">II", data.index(b"mdat") + 4 + 8, 0)
    assert refused(with_places(data, one)) in (CORRUPT, TRUNCATED)


@pytest.mark.parametrize(
    "data",
    [
        b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63) + bytes(40),
        encode(Image.new("P", (8, 8)), "BMP")[:50],
        b"BM" + struct.pack("<IHHI", 60, 0, 0, 200)
        + struct.pack("<IiiHHIIiiII", 124, 8, 8, 1, 8, 0, 0, 0, 0, 0, 0) + bytes(6),
    ],
    ids=["an offset beyond all", "a palette cut off", "a palette behind the end"],
)  # fmt: skip
def test_places_far_beyond_the_file_are_refused(data):
    assert refused(data) in (CORRUPT, TRUNCATED)


def test_a_baseline_jpeg_that_lacks_only_its_end_marker_is_whole():
    data = encode(photo(640, 480), "JPEG")
    whole, short = outcome(data), outcome(data[:-2])
    assert isinstance(whole, DecodedImage)
    assert isinstance(short, DecodedImage)
    np.testing.assert_array_equal(whole.pixels, short.pixels)
    assert refused(data[:-30]) == TRUNCATED
