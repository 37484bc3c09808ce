"""`resnet-export upgrade`: the contract is rewritten, and nothing else of the file."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import onnx
import pytest
from color_model import color_contract, color_graph, write_color_model, write_schema_1
from onnx.external_data_helper import set_external_data

from model_export.cli import main
from model_export.model_file import read_model
from service.contract import METADATA_KEY
from service.engine.base import probabilities
from service.engine.onnx import load_engine
from service.golden import check_golden, golden_pattern


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return write_schema_1(tmp_path / "old.onnx")


def upgraded(*arguments: object) -> int:
    return main(["upgrade", *map(str, arguments)])


def written_contract(path: Path) -> dict:
    (text,) = (entry.value for entry in onnx.load(path).metadata_props if entry.key == METADATA_KEY)
    return json.loads(text)


def test_an_older_file_is_replaced_by_one_of_the_current_schema(
    old: Path, capsys: pytest.CaptureFixture[str]
):
    assert written_contract(old)["schema_version"] == 1
    assert upgraded(old) == 0
    fields = written_contract(old)
    assert fields["schema_version"] == 2
    assert fields["tolerances"] == {"cpu": {"fp32": 1e-4}, "cuda": {"fp32": 1e-3}}
    assert "tolerance" not in fields
    assert capsys.readouterr().out == (
        f"{old}: its contract had schema 1 and now has schema 2, with tolerances by provider "
        "and precision: 0.0001 on CPU, 0.001 on CUDA, in fp32\n"
    )
    assert list(old.parent.iterdir()) == [old]


def test_nothing_else_of_the_file_changes(old: Path):
    """Other metadata, what a newer ONNX may have added, and the graph, to the byte."""
    model = onnx.load(old)
    model.producer_name, model.doc_string = "someone", "their notes"
    model.metadata_props.add(key="theirs", value="kept")
    model.metadata_props.insert(0, onnx.StringStringEntryProto(key="first", value="too"))
    model.MergeFromString(b"\xfa\x3f\x03new")  # field 1023, which this ONNX does not know
    onnx.save(model, old)
    before, contract = read_model(old)
    assert upgraded(old) == 0
    after, kept = read_model(old)
    assert kept == contract == color_contract()
    for one in (before, after):
        (entry,) = (entry for entry in one.metadata_props if entry.key == METADATA_KEY)
        entry.value = ""
    assert after.SerializeToString() == before.SerializeToString()
    assert b"\xfa\x3f\x03new" in old.read_bytes()


def test_an_upgraded_file_answers_and_agrees_with_its_golden_cases_as_before(old: Path):
    image = golden_pattern(3, 8)
    before = probabilities(load_engine(old, provider="cpu"), [image])
    assert upgraded(old) == 0
    engine = load_engine(old, provider="cpu")
    assert (probabilities(engine, [image]) == before).all()
    assert check_golden(engine, read_model(old)[1], 1).failures == ()


def test_with_an_output_the_file_itself_stays(old: Path, tmp_path: Path):
    before, output = old.read_bytes(), tmp_path / "models" / "new.onnx"
    assert upgraded(old, "--output", output) == 0
    assert old.read_bytes() == before
    assert written_contract(output)["schema_version"] == 2


@pytest.mark.parametrize("same", [[], ["--output"]])
def test_a_current_file_is_left_alone(
    tmp_path: Path, same: list[str], capsys: pytest.CaptureFixture[str]
):
    path = write_color_model(tmp_path / "new.onnx")
    before = path.stat()
    assert upgraded(path, *same, *[path] * len(same)) == 0
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert capsys.readouterr().out == (
        f"{path}: its contract already has schema 2; nothing to do\n"
    )


def test_a_current_file_is_copied_to_another_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """A script finds what it asked for, whichever file it was given."""
    path, output = write_color_model(tmp_path / "new.onnx"), tmp_path / "copy.onnx"
    assert upgraded(path, "--output", output) == 0
    assert output.read_bytes() == path.read_bytes()
    assert f"schema 2; {output} is a copy" in capsys.readouterr().out


def with_weights_beside(path: Path) -> Path:
    """The same file, with its weights in weights.bin."""
    model = onnx.load(path)
    (weight,) = (one for one in model.graph.initializer if one.name == "sharpness")
    set_external_data(weight, "weights.bin")
    onnx.save(model, path)
    return path


def test_weights_beside_a_file_stay_there(old: Path):
    with_weights_beside(old)
    before = (old.parent / "weights.bin").read_bytes()
    assert upgraded(old, "--output", old.parent / "new.onnx") == 0
    assert (old.parent / "weights.bin").read_bytes() == before
    engine = load_engine(old.parent / "new.onnx", provider="cpu")
    assert check_golden(engine, color_contract(), 1).failures == ()


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("resnet-export: error: ")
    assert error.count("\n") == 1
    return error


def test_weights_beside_a_file_are_not_left_behind(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with_weights_beside(old)
    output = tmp_path / "elsewhere" / "new.onnx"
    assert upgraded(old, "--output", output) == 2
    assert "its weights are in weights.bin" in the_error(capsys)
    assert not output.exists()


def test_what_can_not_be_upgraded_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "text.onnx").write_text("hello")
    onnx.save(color_graph(), tmp_path / "bare.onnx")
    newer = write_color_model(tmp_path / "newer.onnx")
    model = onnx.load(newer)
    model.metadata_props[0].value = json.dumps(written_contract(newer) | {"schema_version": 4})
    onnx.save(model, newer)
    for name, said in (
        ("missing.onnx", "no such file"),
        ("text.onnx", "is text"),
        ("bare.onnx", "has no contract"),
        ("newer.onnx", "schema_version: 4 is from a newer release"),
    ):
        assert upgraded(tmp_path / name) == 1
        assert f"{name}: " in (error := the_error(capsys))
        assert said in error


def test_an_output_that_the_service_would_not_find_is_refused(
    old: Path, capsys: pytest.CaptureFixture[str]
):
    assert upgraded(old, "--output", "new.bin") == 2
    assert "must end in .onnx" in the_error(capsys)


def test_a_file_that_can_not_be_written_stays_as_it_was(
    old: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    before = old.read_bytes()

    def full(model: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnx.save", full)
    assert upgraded(old) == 1
    assert "No space left on device" in the_error(capsys)
    assert old.read_bytes() == before
    assert list(old.parent.iterdir()) == [old]
    assert stat.S_ISREG(old.stat().st_mode)
