"""Model files are read, and their contract replaced, without touching the graph."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from color_model import color_contract, color_graph, write_color_model
from damage import assert_read_or_refused, damaged
from hypothesis import given
from hypothesis import strategies as st

from model_export.external_data import files_of
from model_export.model_file import load_graph, parse_graph, read_model, rewrite_contract
from service.contract import METADATA_KEY, Accuracy
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


def test_other_metadata_and_weights_in_other_files_stay(tmp_path: Path):
    path = write_color_model(tmp_path / "color.onnx")
    model = onnx.load(path)
    model.metadata_props.add(key="theirs", value="kept")
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    before, weights = read_model(path)[0], (tmp_path / "w.bin").read_bytes()
    accuracy = Accuracy(data_set="colours", images=3, top1=1.0, top5=1.0)
    rewrite_contract(path, color_contract(accuracy=accuracy))
    after, changed = read_model(path)
    assert changed.accuracy == accuracy
    assert after.graph == before.graph
    assert {entry.key for entry in after.metadata_props} == {METADATA_KEY, "theirs"}
    assert files_of(parse_graph(path)) == ["w.bin"]
    assert (tmp_path / "w.bin").read_bytes() == weights


def test_what_is_no_model_file_is_refused(tmp_path: Path):
    """A missing file, other bytes, and a graph without a contract."""
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "bare.onnx").write_bytes(color_graph().SerializeToString())
    for name, error, message in (
        ("missing.onnx", ModelFileError, "no such file"),
        ("text.onnx", ModelFileError, "is text, perhaps a failed download"),
        ("bare.onnx", ContractError, "has no contract"),
    ):
        with pytest.raises(error, match=f"{name}: {message}"):
            read_model(tmp_path / name)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose weights are in a file beside it."""
    path = tmp_path_factory.mktemp("beside") / "color.onnx"
    onnx.save(color_graph(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert path.with_name("w.bin").exists()
    return path


@given(data=st.data())
def test_no_other_error_than_its_own_comes_of_a_damaged_graph(beside: Path, data: st.DataObject):
    """It is read or refused, in one line that can be printed."""
    content = data.draw(damaged(beside.read_bytes()))
    assert_read_or_refused(load_graph, beside.with_name("damaged.onnx"), content, ModelFileError)


def test_names_that_are_no_text_are_damage(beside: Path):
    path = beside.with_name("damaged.onnx")
    path.write_bytes(beside.read_bytes().replace(b"w.bin", b"w.\xffin"))
    with pytest.raises(ModelFileError, match=r"damaged.onnx: is damaged"):
        load_graph(path)
    path.write_bytes(color_graph().SerializeToString().replace(b"images", b"imag\xffs"))
    with pytest.raises(ModelFileError, match=r"is damaged: a name in its graph is not text"):
        load_graph(path)
