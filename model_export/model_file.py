"""Model files on disk: an ONNX graph with its contract in the metadata."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from model_export.files import missing, replacing
from service.contract import METADATA_KEY, ModelContract, parse_contract
from service.errors import ModelFileError

if TYPE_CHECKING:
    from onnx import ModelProto


def read_model(path: Path) -> tuple[ModelProto, ModelContract]:
    """Read a model file's graph and contract.

    Raises `service.errors.ModelFileError`: no such file, no ONNX, or no good contract.
    """
    model = load_graph(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return model, parse_contract(metadata, file=str(path))


def load_graph(path: Path) -> ModelProto:
    """Read any ONNX file, with weights that lie in files beside it.

    Raises `service.errors.ModelFileError`.
    """
    if reason := missing(path):
        raise ModelFileError(reason)
    if path.stat().st_size == 0:  # which is a graph, of nothing
        raise ModelFileError(f"{path}: is empty")
    try:
        return onnx.load(path)
    except DecodeError as error:
        raise ModelFileError(f"{path}: is no ONNX file") from error
    except (onnx.checker.ValidationError, OSError) as error:
        raise ModelFileError(f"{path}: its weights are in files that can't be read") from error


def attach_contract(model: ModelProto, contract: ModelContract) -> None:
    """Put the contract into a graph's metadata, in the place of an earlier one."""
    text = contract.model_dump_json(exclude_none=True)
    onnx.helper.set_model_props(model, {METADATA_KEY: text})


def rewrite_contract(path: Path, contract: ModelContract) -> None:
    """Give the model file at `path` another contract; the graph stays. Raises `OSError`."""
    model, _ = read_model(path)
    attach_contract(model, contract)
    with replacing(path) as temporary:
        onnx.save(model, temporary)
