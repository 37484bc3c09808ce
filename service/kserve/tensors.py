"""Tensors as clients send them, and as they are answered.

https://github.com/kserve/open-inference-protocol and Triton's extension for binary tensor data.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidTensorError

UINT8, BYTES, FP32 = "UINT8", "BYTES", "FP32"

Raw = bytes | memoryview

_LENGTH = struct.Struct("<I")
_NOTHING: Mapping[str, Any] = {}


@dataclass(slots=True)
class InputTensor:
    """An input: raw bytes, or its elements as a list (nested or flat) in row-major order."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: Raw | Sequence[Any]
    parameters: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


@dataclass(slots=True)
class OutputTensor:
    """An output: float32, or a list of texts for BYTES; `binary` says how REST carries it."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: NDArray[np.float32] | list[str]
    binary: bool = False

    def raw(self) -> bytes:
        """Return the data as the protocol's bytes, little-endian and row-major."""
        if isinstance(self.data, list):
            return write_bytes([text.encode() for text in self.data])
        return self.data.astype("<f4", copy=False).tobytes()

    def elements(self) -> list[Any]:
        """Return the data as a flat list."""
        return self.data if isinstance(self.data, list) else self.data.ravel().tolist()


def count_of(shape: Sequence[int]) -> int:
    """Return how many elements a shape has; exact, however large its dimensions."""
    return math.prod(shape)


def uint8_of(tensor: InputTensor) -> NDArray[np.uint8]:
    """Return a UINT8 tensor's elements in its shape; raw data is not copied.

    Raises `InvalidTensorError` if there are more or fewer than the shape says, before memory is
    taken for them, or if one is no whole number from 0 to 255.
    """
    count = count_of(tensor.shape)
    if isinstance(tensor.data, bytes | memoryview):
        _check_count(tensor, len(tensor.data), count, "bytes")
        return np.frombuffer(tensor.data, np.uint8).reshape(tuple(tensor.shape))
    flat = _flat(tensor)
    _check_count(tensor, len(flat), count, "elements")
    try:
        return np.frombuffer(bytes(flat), np.uint8).reshape(tuple(tensor.shape))
    except (TypeError, ValueError) as error:
        raise InvalidTensorError(
            f"input {tensor.name} is UINT8; its data must be whole numbers from 0 to 255"
        ) from error


def bytes_of(tensor: InputTensor) -> Sequence[Any]:
    """Return a BYTES tensor's elements, flat: bytes of raw data, otherwise what the list has.

    Raises `InvalidTensorError` if there are more or fewer than the shape says.
    """
    count, data = count_of(tensor.shape), tensor.data
    found = read_bytes(data, count) if isinstance(data, bytes | memoryview) else _flat(tensor)
    _check_count(tensor, len(found), count, "elements")
    return found


def read_bytes(data: Raw, count: int) -> list[bytes]:
    """Split the binary form of BYTES, each a length (4 bytes, little-endian) and that many bytes.

    Stops after one element more than `count`. Raises `InvalidTensorError` if the data ends early.
    """
    found: list[bytes] = []
    at, view = 0, memoryview(data)
    while at < len(view) and len(found) <= count:
        if at + _LENGTH.size > len(view):
            raise InvalidTensorError("BYTES data ends within the length of an element")
        (size,) = _LENGTH.unpack_from(view, at)
        at += _LENGTH.size
        if size > len(view) - at:
            raise InvalidTensorError(
                f"BYTES data ends within an element: its length is {size}, and "
                f"{len(view) - at} bytes are left"
            )
        found.append(bytes(view[at : at + size]))
        at += size
    return found


def write_bytes(elements: Sequence[bytes]) -> bytes:
    """Return the binary form of BYTES."""
    return b"".join([part for each in elements for part in (_LENGTH.pack(len(each)), each)])


def split(data: Raw, sizes: Sequence[int]) -> list[memoryview]:
    """Split binary data into consecutive tensors, without copying.

    Raises `InvalidTensorError` unless the sizes add up to all of it.
    """
    if sum(sizes) != len(data):
        raise InvalidTensorError(
            f"the inputs' binary_data_size add up to {sum(sizes)} bytes, and the body has "
            f"{len(data)} behind its JSON"
        )
    view, ends = memoryview(data), list(accumulate(sizes))
    return [view[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _flat(tensor: InputTensor) -> Sequence[Any]:
    """Return a list of elements without its nesting, whose depth is limited by the parser."""
    rows: Sequence[Any] = tensor.data
    while rows and isinstance(rows[0], list):
        if not all(isinstance(row, list) for row in rows):
            raise InvalidTensorError(f"the data of input {tensor.name} is nested unevenly")
        rows = list(chain.from_iterable(rows))
    return rows


def _check_count(tensor: InputTensor, there: int, count: int, what: str) -> None:
    if there != count:
        raise InvalidTensorError(
            f"input {tensor.name} has {there} {what} of data, but its shape {list(tensor.shape)} "
            f"needs {count}"
        )
