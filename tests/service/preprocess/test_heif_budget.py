"""HEIF files that say very much, or the same again and again: there is one budget for each."""

from __future__ import annotations

import struct

import pillow_heif
import pytest
from heif_files import CODES, FORMATS, box, coded, full, heif_file
from hypothesis import given
from hypothesis import strategies as st
from images import smooth

from service.errors import RequestError
from service.preprocess import avif, heic
from service.preprocess.bits import Bits
from service.preprocess.decode import DecodePolicy, decode_upright, read
from service.preprocess.heif_budget import Budget

pillow_heif.register_heif_opener()

POLICY = DecodePolicy(max_image_pixels=1_000_000, jpeg_draft_ratio=0)
PARSERS = {"AVIF": avif, "HEIF": heic}


def code(data: bytes) -> str:
    try:
        decode_upright(data, POLICY)
    except RequestError as error:
        return error.code
    return "answered"


def message(data: bytes) -> str:
    with pytest.raises(RequestError) as refusal:
        read(data, 10**8)
    assert refusal.value.code == "corrupt_image"
    return str(refusal.value)


def grid(
    image_format: str,
    tiles: int,
    *,
    configuration: bytes = b"",
    item: bytes = b"",
    more: bytes = b"",
) -> bytes:
    """A row of equal tiles that share their properties, of which one may be another."""
    own, properties = coded(smooth(64, 64), image_format)
    if configuration:
        properties = [configuration if each[4:8] == b"hvcC" else each for each in properties]
    size = 64 * tiles, 64
    told = struct.pack(">BBBBHH", 0, 0, 0, tiles - 1, *size)
    shape = full(b"ispe", 0, struct.pack(">II", *size))
    shared = [each for each in properties if each[4:8] in {b"pixi", b"colr"}]
    kind = CODES[image_format][1]
    return heif_file(
        image_format,
        [(b"grid", told, [shape, *shared]), *[(kind, item or own, properties)] * tiles],
        more=more,
    )


@pytest.mark.parametrize("image_format", FORMATS)
def test_a_header_that_tiles_share_is_parsed_once(image_format, monkeypatch):
    parsed = list[bytes]()
    module = PARSERS[image_format]
    parse = module._sequence_size
    monkeypatch.setattr(module, "_sequence_size", lambda unit: parsed.append(unit) or parse(unit))
    data = grid(image_format, 40)
    assert read(data, 10**6).size == (2560, 64)
    assert len(parsed) == 1
    assert code(data) == "answered"


def configuration() -> tuple[bytes, list[bytes]]:
    """The fixed part of an encoder's hvcC, and its lists of units: parameter sets."""
    _, properties = coded(smooth(64, 64), "HEIF")
    content = next(each for each in properties if each[4:8] == b"hvcC")[8:]
    at, lists = 23, list[bytes]()
    for _ in range(content[22]):
        (count,), end = struct.unpack_from(">H", content, at + 1), at + 3
        for _ in range(count):
            end += 2 + int.from_bytes(content[end : end + 2])
        lists.append(content[at:end])
        at = end
    return content[:22], lists


def test_parameter_sets_are_as_many_as_encoders_write():
    head, lists = configuration()
    assert len(lists) <= 4, "the budget leaves room for honest ones"
    for count, found in ((16, "answered"), (17, "corrupt_image")):
        many = [*lists, *[lists[-1]] * (count - len(lists))]
        assert (
            code(grid("HEIF", 3, configuration=box(b"hvcC", head, bytes([count]), *many))) == found
        )


def test_one_list_of_very_many_parameter_sets_is_refused():
    head, lists = configuration()
    many = b"\x21" + struct.pack(">H", 60_000) + (b"\0\2\x42\1" * 60_000)
    data = grid("HEIF", 3, configuration=box(b"hvcC", head, bytes([len(lists) + 1]), *lists, many))
    assert "parameter sets" in message(data)


def test_very_many_different_headers_of_frames_are_refused():
    """Each takes some microseconds to parse; of a file's pictures they are the same but for few."""
    budget = Budget.of(b"")
    for i in range(100):
        assert budget.header_size(bytes([i % 16]), lambda unit: (unit[0], 1)) == (i % 16, 1)
    with pytest.raises(RequestError, match="different headers"):
        budget.header_size(b"another", lambda _: (1, 1))


@pytest.mark.parametrize("image_format", FORMATS)
def test_units_of_all_items_count_together(image_format):
    """Some thousands in each of many tiles."""
    own, _ = coded(smooth(64, 64), image_format)
    empty = b"\x12\0" if image_format == "AVIF" else b"\0\0\0\2\x4e\1"
    few, many = (grid(image_format, 20, item=empty * count + own) for count in (5, 900))
    assert code(few) == "answered"
    assert "far too many pieces" in message(many)


def references(count: int, boxes: int) -> bytes:
    """Boxes in which an item refers to so many others."""
    numbers = struct.pack(f">{count}H", *range(2, count + 2))
    return box(b"auxl", struct.pack(">HH", 2, count), numbers) * boxes


@pytest.mark.parametrize("image_format", FORMATS)
def test_very_many_references_are_refused(image_format):
    """They are gone through in Python: 13 MB of them took it seconds."""
    assert read(grid(image_format, 3, more=references(100, 20)), 10**6).size == (192, 64)
    assert "far too many pieces" in message(grid(image_format, 3, more=references(65_000, 100)))
    assert "far too many pieces" in message(grid(image_format, 3, more=references(0, 60_000)))


@given(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2))
def test_numbers_whose_length_is_told_by_zeros_are_read_one_after_the_other(first, second):
    bits = "".join("0" * ((n + 1).bit_length() - 1) + f"{n + 1:b}" for n in (first, second))
    padded = bits + "0" * (-len(bits) % 8)
    reader = Bits(int(padded, 2).to_bytes(len(padded) // 8))
    assert (reader.take_counted(), reader.take_counted()) == (first, second)


def test_a_number_of_nothing_but_zeros_is_corrupt():
    with pytest.raises(RequestError) as refusal:
        Bits(bytes(500) + b"\1" * 600).take_counted()
    assert refusal.value.code == "corrupt_image"
