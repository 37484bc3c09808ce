"""TIFFs whose strips or tiles hold fewer rows than they should: libtiff does not always tell."""

from __future__ import annotations

import io
import itertools
import lzma
import re
import struct
import zlib
from collections.abc import Callable

import imagecodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import encode, smooth, tiff
from PIL import Image, TiffImagePlugin
from typing_extensions import Buffer

from service.errors import RequestError
from service.preprocess import tiff_fax
from service.preprocess.decode import DecodePolicy, decode_upright

POLICY = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)
SIZE = WIDTH, HEIGHT = 61, 40
LONG, SHORT = 4, 3
GROUP_3, GROUP_4 = 3, 4
PICTURE = smooth(*SIZE).convert("1")
INK = {
    "halftone": PICTURE,
    "white": Image.new("1", SIZE, 1),
    "black": Image.new("1", SIZE, 0),
    "a black last column": Image.fromarray(np.arange(WIDTH)[None].repeat(HEIGHT, 0) < WIDTH - 1),
}
KINDS = [(GROUP_3, 0), (GROUP_3, 1), (GROUP_3, 4), (GROUP_3, 5), (GROUP_4, 0)]
FAX_4_END = b"\0\x10\x01"


def code(data: bytes) -> str:
    try:
        decode_upright(data, POLICY)
    except RequestError as error:
        return error.code
    return "answered"


def fax(picture: Image.Image, kind: int, options: int) -> bytes:
    """The codes of a picture in one strip."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if kind == GROUP_3:
        tags[292] = options
    data = encode(picture, "TIFF", compression=f"group{kind}", tiffinfo=tags)
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image, TiffImagePlugin.TiffImageFile)
        (start,), (length,) = image.tag_v2[273], image.tag_v2[279]
    return data[start : start + length]


def of_parts(
    parts: list[bytes], kind: int, options: int, high: int, *, tile: int | None = None
) -> bytes:
    """A TIFF of strips, or of tiles as wide as said, which are `high` rows high."""
    places, lengths = (273, 279) if tile is None else (324, 325)
    ends = list(itertools.accumulate(map(len, parts), initial=8))
    tags: dict[int, list[int]] = {
        256: [WIDTH], 257: [HEIGHT], 258: [1], 259: [kind], 262: [1], 277: [1],
        places: ends[:-1], lengths: [len(part) for part in parts],
    }  # fmt: skip
    tags |= {278: [high]} if tile is None else {322: [tile], 323: [high]}
    if kind == GROUP_3:
        tags[292] = [options]
    at = ends[-1]
    outside, outside_at = b"", at + 2 + 12 * len(tags) + 4
    entries = struct.pack("<H", len(tags))
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        entries += struct.pack("<HHI", tag, LONG, len(values))
        entries += packed if len(packed) == 4 else struct.pack("<I", outside_at + len(outside))
        outside += packed if len(packed) > 4 else b""
    return b"II*\0" + struct.pack("<I", at) + b"".join(parts) + entries + bytes(4) + outside


def inked(data: bytes) -> np.ndarray:
    return np.asarray(decode_upright(data, POLICY))[..., 0] == 255


@pytest.mark.parametrize("ink", INK)
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_fax_in_one_strip_is_answered_only_with_all_rows(kind, options, ink):
    """Whatever its last rows look like."""
    picture = INK[ink]
    whole = of_parts([fax(picture, kind, options)], kind, options, HEIGHT)
    assert np.array_equal(inked(whole), np.asarray(picture))
    for have in (1, 2, HEIGHT // 2, HEIGHT - 1):
        short = fax(picture.crop((0, 0, WIDTH, have)), kind, options)
        assert code(of_parts([short], kind, options, HEIGHT)) == "truncated_image"


@pytest.mark.parametrize("ink", INK)
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_fax_in_strips_is_answered_only_with_all_rows_of_each(kind, options, ink):
    picture, high = INK[ink], 12
    parts = [
        fax(picture.crop((0, top, WIDTH, min(top + high, HEIGHT))), kind, options)
        for top in range(0, HEIGHT, high)
    ]
    assert np.array_equal(inked(of_parts(parts, kind, options, high)), np.asarray(picture))
    for at in range(len(parts)):
        short = fax(picture.crop((0, at * high, WIDTH, at * high + 3)), kind, options)
        data = of_parts([*parts[:at], short, *parts[at + 1 :]], kind, options, high)
        assert code(data) == "truncated_image"


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_fax_in_tiles_is_answered_only_with_all_rows_of_each(kind, options):
    side = 32
    tiles = [
        fax(PICTURE.crop((left, top, left + side, top + side)), kind, options)
        for top in (0, side)
        for left in (0, side)
    ]
    whole = of_parts(tiles, kind, options, side, tile=side)
    assert np.array_equal(inked(whole), np.asarray(PICTURE))
    for at in range(4):
        short = [*tiles]
        short[at] = fax(PICTURE.crop((0, 0, side, side - 1)), kind, options)
        assert code(of_parts(short, kind, options, side, tile=side)) == "truncated_image"


@pytest.mark.parametrize("ink", INK)
def test_a_fax_of_group_4_may_lack_the_mark_of_its_end(ink):
    codes = fax(INK[ink], GROUP_4, 0)
    bits = "".join(f"{byte:08b}" for byte in codes)
    end = bits.rindex("000000000001" * 2)
    bits = bits[:end] + "0" * (-end % 8)
    bare = int(bits, 2).to_bytes(len(bits) // 8)
    for codes in (bare, bare + bytes(5), bare + FAX_4_END * 2):
        assert np.array_equal(inked(of_parts([codes], GROUP_4, 0, HEIGHT)), np.asarray(INK[ink]))


def test_parts_that_only_look_like_what_is_missing_are_answered():
    """One strip as the first thing that is tried, and another as the second."""
    picture = Image.new("1", (WIDTH, 40), 1)
    picture.paste(INK["a black last column"].crop((0, 0, WIDTH, 20)), (0, 20))
    for order in (picture, picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)):
        parts = [fax(order.crop((0, top, WIDTH, top + 20)), GROUP_4, 0) for top in (0, 20)]
        assert np.array_equal(inked(of_parts(parts, GROUP_4, 0, 20)), np.asarray(order))


def slow_lines(codes: bytes, tagged: bool) -> int:
    """Lines of Group 3, bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in codes) + "0" * 40
    ends = [found.end() for found in re.finditer("0{11,}1", bits)]
    return int("1" in bits[:11]) + sum("1" in bits[e + tagged :][:11] for e in ends)


@pytest.mark.parametrize("options", [0, 1, 4, 5])
@pytest.mark.parametrize("length", [8, 9, 64, 65_536])
def test_lines_of_group_3_are_counted_across_windows(options, length, monkeypatch):
    monkeypatch.setattr(tiff_fax, "_BYTES_AT_ONCE", length)
    picture = smooth(700, 300).convert("1")
    rows = [1, 2, 80]
    parts = [fax(picture.crop((0, 0, 700, high)), GROUP_3, options) for high in rows]
    for behind in (b"", bytes(9), b"\0\x10\x01" * 3 if options in {0, 4} else b""):
        pieces = [part + behind for part in parts]
        found = tiff_fax.lines(pieces, [999] * 3, tagged=bool(options & 1))
        assert found.tolist() == rows
        assert slow_lines(pieces[1], bool(options & 1)) == 2


CODES = st.lists(
    st.sampled_from([b"\0", b"\0\x10", b"\1", b"\x80", b"\xa0", b"\xff"]) | st.binary(max_size=3)
).map(b"".join)


@given(
    pieces=st.lists(CODES, min_size=1, max_size=5),
    tagged=st.booleans(),
    length=st.integers(4, 40),
    wanted=st.integers(0, 4),
)
def test_lines_are_counted_as_bit_by_bit_and_no_further_than_wanted(pieces, tagged, length, wanted):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiff_fax, "_BYTES_AT_ONCE", length)
        found = tiff_fax.lines(pieces, [wanted] * len(pieces), tagged=tagged)
        every = tiff_fax.lines(pieces, [10_000] * len(pieces), tagged=tagged)
    expected = np.array([slow_lines(piece, tagged) for piece in pieces])
    assert every.tolist() == expected.tolist()
    assert np.array_equal(found >= wanted, expected >= wanted)
    assert (found <= expected).all()


def test_what_follows_the_lines_that_are_wanted_is_not_looked_at(monkeypatch):
    """13 MB of it took a second."""
    looked = list[int]()
    count = tiff_fax._line_ends
    monkeypatch.setattr(
        tiff_fax, "_line_ends", lambda window, tagged: looked.append(1) or count(window, tagged)
    )
    codes = fax(PICTURE, GROUP_3, 0)
    data = of_parts([codes + codes * 10_000], GROUP_3, 0, HEIGHT)
    assert np.array_equal(inked(data), np.asarray(PICTURE))
    assert len(looked) < 4


def planar(planes: list[bytes], kind: int, options: int, high: int = HEIGHT) -> bytes:
    """A TIFF of three planes of one bit, each in as many strips."""
    data = of_parts(planes, kind, options, high)
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = {
        struct.unpack_from("<H", data, place)[0]: data[place : place + 12]
        for place in range(at + 2, at + 2 + 12 * count, 12)
    }
    for tag, value in ((258, 1), (262, 2), (277, 3), (284, 2)):
        entries[tag] = struct.pack("<HHII", tag, SHORT, 1, value)
    more = len(entries) - count
    for tag in (273, 279):  # their values are behind the directory, which has grown
        kind_of, number, place = struct.unpack_from("<HII", entries[tag], 2)
        entries[tag] = struct.pack("<HHII", tag, kind_of, number, place + 12 * more)
    packed = b"".join(entry for _, entry in sorted(entries.items()))
    return data[:at] + struct.pack("<H", len(entries)) + packed + data[at + 2 + 12 * count :]


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("high", [HEIGHT, 12])
def test_a_fax_in_planes_is_answered_only_with_all_rows_of_each(kind, options, high):
    pictures = [smooth(*SIZE, seed).convert("1") for seed in range(3)]
    planes = [
        [
            fax(picture.crop((0, top, WIDTH, min(top + high, HEIGHT))), kind, options)
            for top in range(0, HEIGHT, high)
        ]
        for picture in pictures
    ]
    found = np.asarray(
        decode_upright(planar([*itertools.chain(*planes)], kind, options, high), POLICY)
    )
    for i, picture in enumerate(pictures):
        assert np.array_equal(found[..., i] == 255, np.asarray(picture))
    for i in range(3):
        short = [*planes[i][:-1], fax(pictures[i].crop((0, 0, WIDTH, 2)), kind, options)]
        cut = [*planes[:i], short, *planes[i + 1 :]]
        assert code(planar([*itertools.chain(*cut)], kind, options, high)) == "truncated_image"


@pytest.mark.parametrize("width", [1, 2, 3, 8, 9, 17])
@pytest.mark.parametrize("high", [1, 3, 20])
def test_a_narrow_fax_is_answered_only_with_all_rows(width, high):
    picture = smooth(width, 20).convert("1")
    tops = range(0, 20, high)
    parts = [fax(picture.crop((0, t, width, min(t + high, 20))), GROUP_4, 0) for t in tops]

    def of(parts: list[bytes]) -> bytes:
        data = of_parts(parts, GROUP_4, 0, high)
        for tag, old, new in ((256, WIDTH, width), (257, HEIGHT, 20)):
            entry = struct.pack("<HHI", tag, LONG, 1)
            data = data.replace(entry + struct.pack("<I", old), entry + struct.pack("<I", new))
        return data

    assert np.array_equal(inked(of(parts)), np.asarray(picture))
    rows = min(high, 20 - tops[-1])
    if rows > 1:
        parts[-1] = fax(picture.crop((0, 0, width, rows - 1)), GROUP_4, 0)
        assert code(of(parts)) == "truncated_image"


def test_very_many_strips_of_a_fax_are_refused_by_name():
    """To look at one takes as long as some hundred pixels."""
    row = fax(Image.new("1", (16, 1), 1), GROUP_4, 0)
    for rows, found in ((1000, "answered"), (1200, "unsupported_pixels")):
        data = of_parts([row] * rows, GROUP_4, 0, 1)
        for tag, old, new in ((256, WIDTH, 16), (257, HEIGHT, rows)):
            entry = struct.pack("<HHI", tag, LONG, 1)
            data = data.replace(entry + struct.pack("<I", old), entry + struct.pack("<I", new))
        assert code(data) == found


def test_a_fax_of_as_many_pixels_as_pillow_takes_is_answered():
    """Low strips as well: to look whether all rows are there, more pixels are not made at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT // 2 + 400)
        patch.setattr(tiff_fax, "_PIXELS_AT_ONCE", WIDTH * 10)
        for high in (1, 2, HEIGHT):
            parts = [
                fax(PICTURE.crop((0, top, WIDTH, top + high)), GROUP_4, 0)
                for top in range(0, HEIGHT, high)
            ]
            assert np.array_equal(inked(of_parts(parts, GROUP_4, 0, high)), np.asarray(PICTURE))


# Other compressions: libtiff does tell


def pack_bits(data: bytes) -> bytes:
    return b"".join(
        bytes([len(piece) - 1]) + piece
        for piece in (data[at : at + 128] for at in range(0, len(data), 128))
    )


PACKERS: dict[int, Callable[[bytes], Buffer]] = {
    1: bytes, 5: imagecodecs.lzw_encode, 8: zlib.compress, 32946: zlib.compress,
    32773: pack_bits, 34925: lzma.compress, 50000: imagecodecs.zstd_encode,
}  # fmt: skip


@pytest.mark.parametrize("compression", PACKERS)
def test_samples_that_unpack_to_too_little_are_refused(compression):
    samples = np.asarray(smooth(*SIZE))
    of = {"width": WIDTH, "height": HEIGHT, "bits": [8, 8, 8], "photometric": 2, "samples": 3}
    for have in (HEIGHT, HEIGHT - 1, HEIGHT // 2, 1):
        packed = bytes(PACKERS[compression](samples[:have].tobytes()))
        found = code(tiff(packed, compression=compression, **of))
        if have == HEIGHT:
            assert found == "answered"
        elif compression in {1, 8, 32946, 32773}:
            assert found == "truncated_image"
        else:  # libtiff's words for it are not to be had
            assert found == "corrupt_image"


def test_deflated_samples_that_are_damaged_are_corrupt():
    packed = bytearray(zlib.compress(np.asarray(smooth(*SIZE)).tobytes()))
    packed[2] ^= 6
    of = {"width": WIDTH, "height": HEIGHT, "bits": [8, 8, 8], "photometric": 2, "samples": 3}
    assert code(tiff(bytes(packed), compression=8, **of)) == "corrupt_image"


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_in_a_tiff_that_are_cut_off_and_then_ended_are_truncated(mode):
    picture = smooth(64, 48).convert(mode)
    part = encode(picture, "JPEG", quality=90)
    of = {
        "width": 64, "height": 48, "bits": [8] * len(mode), "samples": len(mode), "compression": 7,
        "photometric": {"L": 1, "RGB": 6, "CMYK": 5}[mode],
    }  # fmt: skip
    assert code(tiff(part, **of)) == "answered"
    for share in (0.7, 0.8, 0.95):
        cut = part[: int(len(part) * share)] + b"\xff\xd9"
        assert code(tiff(cut, **of)) == "truncated_image"
