"""Cached graphs of PyTorch's exporter, which takes nearly all of an export's time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto
from shared import made_once

from model_export import graph
from model_export.graph import ServedNetwork
from model_export.options import Storage


def exported(
    folder: Path, served: ServedNetwork, size: tuple[int, int], storage: Storage = "fp32"
) -> ModelProto:
    """Return what `to_onnx` returns, exported only once per network and test run."""
    digest = hashlib.sha256(f"{served} {served.half_precision} {size} {storage}".encode())
    for name, value in served.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    path = folder / f"{digest.hexdigest()}.onnx"
    made_once(path, lambda part: onnx.save(graph.to_onnx(served, size, storage), part))
    return onnx.load(path)


@contextmanager
def exports_kept(folder: Path) -> Iterator[None]:
    """Make `export` and its callers take each graph from the folder, or store it there."""

    def to_onnx(
        served: ServedNetwork, size: tuple[int, int], storage: Storage = "fp32"
    ) -> ModelProto:
        return exported(folder, served, size, storage)

    with pytest.MonkeyPatch.context() as patch:
        for user in ("export", "precision"):
            patch.setattr(f"model_export.{user}.to_onnx", to_onnx)
        yield
