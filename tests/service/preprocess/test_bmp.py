"""Bitmaps of every header, depth, mask and run length."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from images import encode, photo
from PIL import Image

from service.errors import RequestError
from service.preprocess.decode import DecodePolicy, decode_upright
from service.preprocess.run_lengths import unpack

POLICY = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)
A = np.asarray(photo(23, 17))
RANDOM = np.random.default_rng(3)


def header(size: int, width: int, height: int, bits: int, compression: int = 0, used: int = 0):
    if size == 12:
        return struct.pack("<IHHHH", 12, width, height, 1, bits)
    return struct.pack(
        "<IiiHHIIiiII", size, width, height, 1, bits, compression, 0, 2835, 2835, used, 0
    )


def bitmap(head: bytes, palette: bytes, pixels: bytes) -> bytes:
    start = 14 + len(head) + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start) + head + palette + pixels


def rows(values: np.ndarray, bits: int) -> bytes:
    """Rows from the lowest up, each filled up to four bytes."""
    out = b""
    for row in values[::-1]:
        if bits < 8:
            planes = (row[..., None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)
            packed = np.packbits(planes.reshape(-1)).tobytes()
        else:
            packed = row.tobytes()
        out += packed.ljust(-(-len(packed) // 4) * 4, b"\0")
    return out


def found(data: bytes) -> np.ndarray:
    return np.asarray(decode_upright(data, POLICY))


@pytest.mark.parametrize("size", [12, 16, 20, 24, 36, 40, 46, 48, 52, 56, 60, 64, 108, 124])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_give_their_colors(size, bits):
    colors = RANDOM.integers(0, 256, (1 << bits, 3), np.uint8)
    index = RANDOM.integers(0, 1 << bits, (17, 23), np.uint8)
    entries = (
        colors[:, ::-1] if size == 12 else np.c_[colors[:, ::-1], np.zeros(1 << bits, np.uint8)]
    )
    head = header(size, 23, 17, bits)[:size].ljust(size, b"\0")  # OS/2's may be cut anywhere
    assert np.array_equal(found(bitmap(head, entries.tobytes(), rows(index, bits))), colors[index])


@pytest.mark.parametrize(
    ("size", "top_down"),
    [(12, False), *((size, order) for size in (40, 108, 124) for order in (False, True))],
)
def test_24_bits_are_blue_green_red(size, top_down):
    head = header(size, 23, -17 if top_down else 17, 24).ljust(size, b"\0")
    values = np.ascontiguousarray((A[::-1] if top_down else A)[..., ::-1])
    assert np.array_equal(found(bitmap(head, b"", rows(values, 24))), A)


def masked(size: int, bits: int, masks: tuple[int, ...], values: np.ndarray) -> bytes:
    """A bitmap whose masks are in its header, or follow it."""
    head = header(
        size, values.shape[1], values.shape[0], bits, 3 if len(masks) < 4 or size > 40 else 6
    )
    told = struct.pack(f"<{len(masks)}I", *masks)
    head = head + told if size == 40 else (head + told).ljust(size, b"\0")
    return bitmap(head, b"", rows(values.astype(f"<u{bits // 8}"), bits))


LAYOUTS = {
    "565": (16, (0xF800, 0x7E0, 0x1F)), "555": (16, (0x7C00, 0x3E0, 0x1F)),
    "444": (16, (0xF00, 0xF0, 0xF)), "BGR 565": (16, (0x1F, 0x7E0, 0xF800)),
    "1555": (16, (0x7C00, 0x3E0, 0x1F, 0x8000)), "4444": (16, (0xF00, 0xF0, 0xF, 0xF000)),
    "8888": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000)), "888": (32, (0xFF0000, 0xFF00, 0xFF)),
    "RGBA": (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000)),
    "ABGR": (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF)),
    "10 bits": (32, (0x3FF00000, 0xFFC00, 0x3FF)),
    "2 of alpha": (32, (0x3FF, 0xFFC00, 0x3FF00000, 0xC0000000)),
}  # fmt: skip


@pytest.mark.parametrize("size", [40, 56, 108, 124])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_give_their_colors(size, layout):
    bits, masks = LAYOUTS[layout]
    values = RANDOM.integers(0, 1 << bits, (17, 23), np.uint64)
    channels = []
    for mask in masks:
        shift = (mask & -mask).bit_length() - 1
        channels.append(((values & mask) >> shift) / (mask >> shift) * 255)
    expected = np.stack(channels[:3], -1)
    if len(masks) == 4:
        share = channels[3][..., None] / 255
        expected = expected * share + 255 * (1 - share)
    assert np.abs(found(masked(size, bits, masks, values)) - expected).max() <= 1.5


@pytest.mark.parametrize("size", [56, 108, 124])
@pytest.mark.parametrize("layout", ["1555", "4444", "8888", "2 of alpha"])
def test_an_alpha_that_is_0_everywhere_is_none(size, layout):
    """Programs that know no alpha write such files."""
    bits, masks = LAYOUTS[layout]
    values = RANDOM.integers(0, 1 << bits, (17, 23), np.uint64) & ~np.uint64(masks[3])
    opaque = masked(size, bits, (*masks[:3], 0), values)
    assert np.array_equal(found(masked(size, bits, masks, values)), found(opaque))
    assert found(opaque).min() < 100


def test_a_fourth_byte_that_no_mask_names_is_nothing():
    values = np.dstack([A[..., ::-1], np.zeros((17, 23), np.uint8)])
    assert np.array_equal(found(bitmap(header(40, 23, 17, 32), b"", rows(values, 32))), A)


GREYS = b"".join(bytes([n, n, n, 0]) for n in range(256))
FOURS = b"".join(bytes([n, n, n, 0]) for n in range(16))


def runs_of(row: np.ndarray, *, four_bits: bool, plain: bool) -> bytes:
    """A row as runs of one pixel each, or as pixels one after the other."""
    out = b""
    if plain and len(row) > 2:
        values = row.tolist() + [0] * (len(row) % 2)
        stored = row.tobytes()
        if four_bits:
            stored = bytes(a << 4 | b for a, b in zip(values[::2], values[1::2], strict=True))
        return bytes([0, len(row)]) + stored + b"\0" * (len(stored) % 2)
    for value in row.tolist():
        out += bytes([1, value << 4 if four_bits else value])
    return out


def test_run_lengths_may_lack_their_end():
    row = runs_of(np.arange(7, dtype=np.uint8), four_bits=False, plain=False)
    whole = found(bitmap(header(40, 7, 2, 8, 1), GREYS, row + b"\0\0" + row))
    assert whole[..., 0].tolist() == [list(range(7))] * 2
    with pytest.raises(RequestError) as refusal:
        found(bitmap(header(40, 7, 2, 8, 1), GREYS, row + b"\0\0" + row[:-2]))
    assert refusal.value.code == "truncated_image"


def one_by_one(data: bytes, size: tuple[int, int], *, four_bits: bool) -> np.ndarray:
    """Run lengths as their specification reads: a command at a time."""
    indices, x, y, at = np.zeros(size[::-1], np.uint8), 0, 0, 0

    def put(value: int) -> None:
        nonlocal x
        if x < size[0] and y < size[1]:
            indices[y, x] = value
        x += 1

    while y < size[1]:
        count, value = data[at : at + 2]
        at += 2
        if count:
            for i in range(count):
                put((value & 15 if i % 2 else value >> 4) if four_bits else value)
        elif value == 0:
            x, y = 0, y + 1
        elif value == 1:
            break
        elif value == 2:
            x, y, at = x + data[at], y + data[at + 1], at + 2
        else:
            stored = -(-value // 2) if four_bits else value
            for i in range(value):
                byte = data[at + (i // 2 if four_bits else i)]
                put((byte & 15 if i % 2 else byte >> 4) if four_bits else byte)
            at += stored + stored % 2
    return indices


def stored(pixels: bytes, *, four_bits: bool) -> bytes:
    """Three or more pixels as they are; of four bits, of half as many bytes."""
    held = pixels[: -(-len(pixels) // 2)] if four_bits else pixels
    return bytes([0, len(pixels)]) + held + b"\0" * (len(held) % 2)


COMMANDS = st.one_of(
    st.tuples(st.integers(1, 255), st.integers(0, 255)).map(bytes),
    st.just(b"\0\0"),
    st.tuples(st.integers(0, 9), st.integers(0, 2)).map(lambda step: b"\0\2" + bytes(step)),
)
# Many zeros, which look like commands themselves.
PIXELS = st.lists(st.sampled_from([0, 0, 0, 1, 2, 3, 200]), min_size=3, max_size=255)


@given(
    st.lists(COMMANDS | PIXELS, max_size=60), st.integers(1, 300), st.integers(1, 12), st.booleans()
)
def test_any_commands_give_what_one_at_a_time_would(drawn, width, height, four_bits):
    data = b"".join(
        stored(bytes(each), four_bits=four_bits) if isinstance(each, list) else each
        for each in drawn
    )
    data += b"\0\1"
    expected = one_by_one(data, (width, height), four_bits=four_bits)
    assert np.array_equal(unpack(data, (width, height), four_bits=four_bits), expected)


@pytest.mark.parametrize("four_bits", [False, True])
def test_commands_lie_where_they_do_however_many_there_are(four_bits):
    """Of far more than are unpacked at once, with data that look like commands themselves."""
    random = np.random.default_rng(7)
    rows = []
    for _ in range(40):
        for _ in range(300):
            drawn = bytes(random.choice([0, 0, 1, 2, 9], random.integers(3, 20)).tolist())
            rows.append(stored(drawn, four_bits=four_bits))
        rows.append(b"\0\0")
    data = b"".join(rows) + b"\0\1"
    expected = one_by_one(data, (4000, 40), four_bits=four_bits)
    assert np.array_equal(unpack(data, (4000, 40), four_bits=four_bits), expected)


@given(st.integers(1, 40), st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 99))
def test_run_lengths_unpack_to_what_was_packed(width, height, four_bits, plain, seed):
    index = np.random.default_rng(seed).integers(
        0, 16 if four_bits else 256, (height, width), np.uint8
    )
    data = (
        b"".join(runs_of(row, four_bits=four_bits, plain=plain) + b"\0\0" for row in index[::-1])
        + b"\0\1"
    )
    head = header(40, width, height, 4 if four_bits else 8, 2 if four_bits else 1)
    result = found(bitmap(head, FOURS if four_bits else GREYS, data))
    assert np.array_equal(result[..., 0], index)


def test_long_runs_alternate_two_pixels_of_four_bits():
    data = bytes([5, 0x3A, 0, 0, 0, 1])
    assert found(bitmap(header(40, 5, 1, 4, 2), FOURS, data))[0, :, 0].tolist() == [3, 10, 3, 10, 3]


def test_empty_rows_and_steps_leave_the_first_color():
    data = b"\2\7\0\0" + b"\0\0" + b"\0\2\1\0" + b"\1\x09" + b"\0\1"
    picture = found(bitmap(header(40, 3, 4, 8, 1), GREYS, data))[::-1, :, 0]
    assert picture.tolist() == [[7, 7, 0], [0, 0, 0], [0, 9, 0], [0, 0, 0]]


def test_run_lengths_that_break_off_are_truncated():
    with pytest.raises(RequestError) as refusal:
        found(bitmap(header(40, 300, 200, 8, 1), GREYS, b"\1\7" * 50))
    assert refusal.value.code == "truncated_image"


@pytest.mark.parametrize("four_bits", [False, True])
@pytest.mark.parametrize(
    ("commands", "why"),
    [
        pytest.param(b"\xff\7" * 3000, "far longer than its rows", id="runs"),
        pytest.param(b"", "far longer than its rows", id="pixels as they are"),
        pytest.param(b"\1\7" * 100_000, "far too many pieces", id="pixels"),
        pytest.param(b"\0\2\0\0" * 100_000, "far too many pieces", id="steps to where it is"),
        pytest.param(b"\1\7\0\2\0\0" * 3000, "far too many pieces", id="a step with each pixel"),
    ],
)
def test_commands_that_are_far_more_than_a_picture_takes_are_refused(commands, why, four_bits):
    """Each takes its time, whether or not it writes a pixel."""
    data = commands or stored(bytes(255), four_bits=four_bits) * 3000
    with pytest.raises(RequestError, match=why) as refusal:
        unpack(data, (64, 64), four_bits=four_bits)
    assert refusal.value.code == "corrupt_image"


@pytest.mark.parametrize("four_bits", [False, True])
def test_the_most_that_an_encoder_writes_is_unpacked(four_bits):
    """Each pixel by itself, in rows that are a little too long, and a step in each of them."""
    row = b"\1\x77" * 63 + b"\0\2\1\0" + b"\1\x77" * 2 + b"\0\0"
    pixels = unpack(row * 64 + b"\0\1", (65, 64), four_bits=four_bits)
    assert (pixels[:, :63] == (7 if four_bits else 0x77)).all()
    assert (pixels[:, 63] == 0).all()


@pytest.mark.parametrize(
    ("bits", "compression"),
    [(8, 4), (24, 5), (0, 4), (0, 5), (8, 11), (64, 0), (24, 1), (3, 0), (8, 3)],
)
def test_what_is_not_decoded_is_refused_by_name(bits, compression):
    with pytest.raises(RequestError, match=f"compression {compression}") as refusal:
        found(bitmap(header(40, 8, 8, bits, compression), b"", bytes(2000)))
    assert refusal.value.code == "unsupported_pixels"


@pytest.mark.parametrize(
    ("size", "compression", "name"),
    [(40, 4, "an embedded JPEG"), (124, 5, "an embedded PNG"), (64, 3, "Huffman codes"),
     (48, 4, "24-bit run lengths")],
)  # fmt: skip
def test_a_compression_is_named_by_what_its_header_means_by_it(size, compression, name):
    head = header(size, 8, 8, 24, compression)[:size].ljust(size, b"\0")
    with pytest.raises(RequestError, match=name) as refusal:
        found(bitmap(head, b"", bytes(2000)))
    assert refusal.value.code == "unsupported_pixels"


def test_a_mask_with_gaps_is_refused():
    with pytest.raises(RequestError, match="contiguous"):
        found(masked(108, 32, (0xF0F, 0xF000, 0xF0000), np.zeros((2, 2))))


def test_pillows_own_bitmaps_are_decoded():
    for mode in ("1", "L", "P", "RGB"):
        picture = Image.fromarray(A).convert(mode)
        expected = np.asarray(picture.convert("RGB"))
        assert np.array_equal(found(encode(picture, "BMP")), expected)
