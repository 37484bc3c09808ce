"""Model files are read, and their contract replaced, without touching the graph."""

from __future__ import annotations

from pathlib import Path

import pytest
from color_model import color_contract, color_graph, write_color_model

from model_export.model_file import read_model, rewrite_contract
from service.contract import Accuracy
from service.errors import ContractError, ModelFileError


def test_contract_is_replaced_and_the_graph_stays(tmp_path: Path):
    """As after measuring the accuracy."""
    path = write_color_model(tmp_path / "color.onnx")
    accuracy = Accuracy(data_set="colours", images=3, top1=1.0, top5=1.0)
    before, contract = read_model(path)
    rewrite_contract(path, contract.model_copy(update={"accuracy": accuracy}))
    after, changed = read_model(path)
    assert changed == color_contract(accuracy=accuracy)
    assert after.graph == before.graph
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_no_model_file_is_refused(tmp_path: Path):
    """A missing file, other bytes, and a graph without a contract."""
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "bare.onnx").write_bytes(color_graph().SerializeToString())
    for name, error, message in (
        ("missing.onnx", ModelFileError, "no such file"),
        ("text.onnx", ModelFileError, "is text, perhaps an error"),
        ("bare.onnx", ContractError, "has no contract"),
    ):
        with pytest.raises(error, match=f"{name}: {message}"):
            read_model(tmp_path / name)
