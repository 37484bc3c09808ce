"""Weights that an ONNX file keeps in separate files, and what keeps them from being read."""

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
    """Return which file of weights can't be read first, and why; empty if all can.

    Their content is checked too, since a text file in place of the weights would be read as weights
    if it were long enough. Raises `OSError`.
    """
    judged: dict[str, str] = {}
    for tensor in _external(model.graph):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        name = entries.get("location", "")
        if name not in judged:
            judged[name] = _file_reason(name, folder)
        if reason := judged[name] or _range_reason(tensor, entries, folder / name):
            return f"its weights in {shown(name) or 'an unnamed file'} can't be read: {reason}"
    return ""


def state_lengths(model: ModelProto) -> None:
    """Add missing lengths, since `onnx` would otherwise read the whole rest of a file."""
    for tensor in _external(model.graph):
        if not any(entry.key == "length" for entry in tensor.external_data):
            tensor.external_data.add(key="length", value=str(_bytes_of(tensor)))


def files_of(model: ModelProto) -> list[str]:
    """List the files with weights of the graph, relative to the ONNX file's folder."""
    entries = [entry for tensor in _external(model.graph) for entry in tensor.external_data]
    return sorted({entry.value for entry in entries if entry.key == "location"})


def _external(graph: GraphProto) -> Iterator[TensorProto]:
    """Yield all tensors with external values, including those of nodes and nested graphs."""
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
        return "only files in the ONNX file's folder can be used"
    if reason := no_file(path):
        return f"it {reason}" if reason.startswith("is ") else f"there is {reason}"
    found = content_of(path)
    is_empty = path.stat().st_size == 0
    return f"it {found.told}" if is_empty or found.kind == "text" else ""


def _range_reason(tensor: TensorProto, entries: dict[str, str], path: Path) -> str:
    """Return what is wrong with a tensor's range in its file; empty if nothing is."""
    size = path.stat().st_size
    try:
        needed = _bytes_of(tensor)
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", needed))
    except (KeyError, ValueError):
        return f"{shown(tensor.name)} has an invalid type or location"
    if length != needed:
        return f"{shown(tensor.name)} has {length} bytes in it, but its shape needs {needed}"
    if offset + length > size:
        return (
            f"it has only {size} bytes, but {shown(tensor.name)} is at bytes {offset} to "
            f"{offset + length}; perhaps it was not downloaded completely"
        )
    return ""


def _bytes_of(tensor: TensorProto) -> int:
    """Return the number of bytes of a tensor's values; types below 8 bits are packed.

    Raises `KeyError` or `ValueError` if its type does not exist.
    """
    packed = re.search(r"(?:INT|FLOAT)([24])(?!\d)", TensorProto.DataType.Name(tensor.data_type))
    bits = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize * 8
    count: int = math.prod(tensor.dims)
    return -(-count * (int(packed[1]) if packed else bits) // 8)
