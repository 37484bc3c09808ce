"""Model files on disk: an ONNX graph with its contract in the metadata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from model_export.contents import content_of, shown
from model_export.damage import told_as_damage
from model_export.external_data import state_lengths, unreadable
from model_export.files import missing
from service.contract import METADATA_KEY, ModelContract, parse_contract
from service.errors import ModelFileError, first_line
from service.files import replacing

if TYPE_CHECKING:
    from onnx import ModelProto

_SHOWN = 300  # characters of a reader's message


def read_model(path: Path) -> tuple[ModelProto, ModelContract]:
    """Read a model file's graph and contract.

    Raises `service.errors.ModelFileError` if the file is missing, not ONNX, or has no valid
    contract.
    """
    model = load_graph(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return model, parse_contract(metadata, file=str(path))


def load_graph(path: Path) -> ModelProto:
    """Read any ONNX file, including weights in separate files.

    Raises `service.errors.ModelFileError`.
    """
    model = parse_graph(path)
    with told_as_damage(path, ModelFileError):
        _load_weights(model, path)
    return model


def parse_graph(path: Path) -> ModelProto:
    """Read any ONNX file, without weights in separate files.

    Raises `service.errors.ModelFileError`.
    """
    if reason := missing(path):
        raise ModelFileError(reason)
    found = content_of(path)
    if found.kind not in {"onnx", "unknown"}:
        raise ModelFileError(f"{path}: {found.told}")
    with told_as_damage(path, ModelFileError):
        return _parsed(path)


def _parsed(path: Path) -> ModelProto:
    try:
        # With a format, since `onnx` otherwise goes by the file name's suffix.
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise ModelFileError(f"{path}: is not an ONNX file, or is damaged") from error
    if not model.HasField("graph"):  # bytes that happen to be a protocol buffer
        raise ModelFileError(f"{path}: is not an ONNX file, or is damaged: it has no graph")
    if not all(isinstance(name, str) for name in _names(model)):
        raise ModelFileError(f"{path}: is damaged: a name in its graph is not text")
    return model


def _load_weights(model: ModelProto, path: Path) -> None:
    if reason := unreadable(model, path.parent):
        raise ModelFileError(f"{path}: {reason}")
    state_lengths(model)
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        reason = shown(first_line(error), _SHOWN)
        raise ModelFileError(f"{path}: its weights can't be read: {reason}") from error


def _names(model: ModelProto) -> list[Any]:
    """Return the names in a graph; those that are not UTF-8 are `bytes`."""
    graph = model.graph
    named = (*graph.input, *graph.output, *graph.initializer, *graph.node)
    used = [name for node in graph.node for name in (*node.input, *node.output, node.op_type)]
    return [one.name for one in named] + used


def attach_contract(model: ModelProto, contract: ModelContract) -> None:
    """Put the contract into a graph's metadata, replacing an earlier one; the rest stays."""
    _attach(model, METADATA_KEY, contract.model_dump_json(exclude_none=True))


def _attach(model: ModelProto, key: str, text: str) -> None:
    # Of several entries with the same key, readers use the last.
    entries = [entry for entry in model.metadata_props if entry.key == key]
    entry = entries[-1] if entries else model.metadata_props.add(key=key)
    entry.value = text


def rewrite_contract(path: Path, contract: ModelContract) -> None:
    """Replace the contract of the model file at `path`, and nothing else of it, as below."""
    rewrite_metadata(path, METADATA_KEY, contract.model_dump_json(exclude_none=True))


def rewrite_metadata(path: Path, key: str, text: str) -> None:
    """Replace one entry of the metadata of the model file at `path`, and nothing else of it.

    Weights in separate files stay there. Raises `service.errors.ModelFileError` or `OSError`; then
    the file is unchanged.
    """
    model = parse_graph(path)
    _attach(model, key, text)
    with replacing(path) as temporary:
        onnx.save(model, temporary)
