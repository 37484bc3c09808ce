"""Tensors in binary and as lists: read back as written, and never trusted."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidTensorError
from service.kserve.tensors import (
    InputTensor,
    OutputTensor,
    bytes_of,
    read_bytes,
    split,
    uint8_of,
    write_bytes,
)


def tensor(data: object, shape: list[int], datatype: str = "UINT8") -> InputTensor:
    return InputTensor("images", datatype, shape, data)  # type: ignore[arg-type]  # also bad data


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_bytes_are_read_as_they_were_written(elements):
    assert read_bytes(write_bytes(elements), len(elements)) == elements


@given(st.binary(max_size=60), st.integers(0, 8))
def test_any_bytes_are_either_elements_or_refused(data, count):
    """What is read takes no more memory than what came, and writes back to it."""
    try:
        found = read_bytes(data, count)
    except InvalidTensorError:
        return
    assert len(found) <= count + 1
    assert data.startswith(write_bytes(found))


@given(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6), st.data())
def test_bytes_that_are_cut_off_are_refused(elements, data):
    """Wherever the cut is, but between two elements."""
    whole = write_bytes(elements)
    ends = {len(write_bytes(elements[:number])) for number in range(len(elements) + 1)}
    cut = data.draw(st.sampled_from(sorted({*range(len(whole))} - ends)))
    with pytest.raises(InvalidTensorError, match="ends within"):
        read_bytes(whole[:cut], len(elements))


def test_a_length_of_four_gigabytes_takes_no_memory():
    with pytest.raises(InvalidTensorError, match="4294967295, and 3 bytes are left"):
        read_bytes(struct.pack("<I", 2**32 - 1) + b"abc", 1)


@given(st.lists(st.binary(max_size=20), max_size=6))
def test_binary_data_is_split_by_the_sizes_that_are_stated(parts):
    found = split(b"".join(parts), [len(part) for part in parts])
    assert [bytes(part) for part in found] == parts


@pytest.mark.parametrize("sizes", [[], [3], [2, 3], [2**63, 1]])
def test_binary_data_of_another_size_is_refused(sizes):
    with pytest.raises(InvalidTensorError, match="add up to"):
        split(b"abcd", sizes)


def test_raw_pixels_are_not_copied():
    data = bytes(range(12))
    assert np.shares_memory(uint8_of(tensor(data, [1, 2, 2, 3])), np.frombuffer(data, np.uint8))


def test_a_list_may_be_nested_as_the_shape_is_or_flat():
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    for data in (pixels.tolist(), pixels.ravel().tolist(), pixels.tobytes()):
        assert np.array_equal(uint8_of(tensor(data, [1, 2, 2, 3])), pixels)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1, 2], "has 2 elements"),
        ([1, 2, 3, 4], "has 4 elements"),
        (b"ab", "has 2 bytes"),
        ([1, 2, 256], "from 0 to 255"),
        ([1, 2, -1], "from 0 to 255"),
        ([1, 2, 2**70], "from 0 to 255"),
        ([1, 2, 0.5], "from 0 to 255"),
        ([1, 2, "3"], "from 0 to 255"),
        ([1, 2, None], "from 0 to 255"),
        ([1, 2, [3]], "from 0 to 255"),
        ([[1], 2, 3], "nested unevenly"),
    ],
)
def test_data_that_is_not_the_shapes_is_refused(data, message):
    with pytest.raises(InvalidTensorError, match=message):
        uint8_of(tensor(data, [1, 1, 1, 3]))


@pytest.mark.parametrize("shape", [[2**4, 2**60 + 2], [2**62, 2**62], [2**63, 3]])
def test_a_shape_whose_elements_overflow_64_bits_is_refused_by_their_true_number(shape):
    """2^4 x (2^60 + 2) is 32 in 64 bits, which Triton's own tests send."""
    with pytest.raises(InvalidTensorError, match=f"needs {shape[0] * shape[1]}"):
        uint8_of(tensor(bytes(32), shape))


def test_bytes_need_as_many_elements_as_their_shape_has():
    data = write_bytes([b"a", b"b"])
    assert bytes_of(tensor(data, [2], "BYTES")) == [b"a", b"b"]
    for shape in ([1], [3]):
        with pytest.raises(InvalidTensorError, match=f"needs {shape[0]}"):
            bytes_of(tensor(data, shape, "BYTES"))


def test_an_output_is_little_endian_and_row_major():
    values = np.array([[1, 2], [3, 4]], np.float32).T
    output = OutputTensor("probabilities", "FP32", [2, 2], values)
    assert output.raw() == struct.pack("<4f", 1, 3, 2, 4)
    assert output.elements() == [1, 3, 2, 4]
    assert OutputTensor("p", "BYTES", [1], ["é"]).raw() == b"\x02\x00\x00\x00\xc3\xa9"
