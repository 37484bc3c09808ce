"""Weights of an ONNX file that lie in files beside it: what keeps them from being read."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from onnx import TensorProto, helper

from model_export.contents import content_of, shown
from model_export.files import no_file

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto


def unreadable(model: ModelProto, folder: Path) -> str:
    """Name the first file of weights that can't be read, and why; empty if all can.

    Their content is judged too, since a text in a file's place is as good as any bytes where it is
    long enough. Raises `OSError`.
    """
    judged: dict[str, str] = {}
    for tensor in _external(model.graph):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        if name not in judged:
            judged[name] = _file_reason(name, folder)
        if reason := judged[name] or _range_reason(tensor, entries, folder / name):
            return (
                f"its weights in {shown(name) or 'a file without a name'} can't be read: {reason}"
            )
    return ""


def state_lengths(model: ModelProto) -> None:
    """Write the lengths that may be left out, since `onnx` would read all the rest of a file."""
    for tensor in _external(model.graph):
        if not any(entry.key == "length" for entry in tensor.external_data):
            tensor.external_data.add(key="length", value=str(_bytes_of(tensor)))


def files_of(model: ModelProto) -> list[str]:
    """List the files that have weights of the graph, relative to its own file's folder."""
    entries = [entry for tensor in _external(model.graph) for entry in tensor.external_data]
    return sorted({entry.value for entry in entries if entry.key == "location"})


def _external(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield all tensors with values elsewhere, those of nodes and their graphs too."""
    found = [*graph.initializer]
    for sparse in graph.sparse_initializer:
        found += [sparse.values, sparse.indices]
    for node in graph.node:
        for attribute in node.attribute:
            found += [attribute.t, *attribute.tensors]
            for inner in (attribute.g, *attribute.graphs):
                yield from _external(inner)
    yield from (tensor for tensor in found if tensor.data_location == TensorProto.EXTERNAL)


def _file_reason(name: str, folder: Path) -> str:
    path = folder / name
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        return "only files in the ONNX file's folder are read"
    if reason := no_file(path):
        return f"it {reason}" if reason.startswith("is ") else f"there is {reason}"
    found = content_of(path)
    is_empty = path.stat().st_size == 0
    return f"it {found.told}" if is_empty or found.kind == "text" else ""


def _range_reason(tensor: TensorProto, entries: dict[str, str], path: Path) -> str:
    """Say what is wrong with a tensor's place in its file."""
    size = path.stat().st_size
    try:
        needed = _bytes_of(tensor)
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", needed))
    except (KeyError, ValueError):
        return f"the type of {shown(tensor.name)}, or its place in it, is none"
    if length != needed:
        return f"{shown(tensor.name)} has {length} bytes in it, and its shape is of {needed}"
    if offset + length > size:
        return (
            f"it is too short: {size} bytes, and {shown(tensor.name)} is at bytes {offset} to "
            f"{offset + length}; perhaps it was not downloaded whole"
        )
    return ""


def _bytes_of(tensor: TensorProto) -> int:
    """Return the number of bytes of a tensor's values; those of less than a byte are packed.

    Raises `KeyError` or `ValueError` if there is no such type.
    """
    packed = re.search(r"(?:INT|FLOAT)([24])(?!\d)", TensorProto.DataType.Name(tensor.data_type))
    bits = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    count: int = math.prod(tensor.dims)
    return -(-count * (int(packed[1]) if packed else bits) // 8)
