"""Which files of a folder are models, and what each is served as."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import ModelSelectionError
from service.model_files import ModelFile, builtin_file, discover


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_file_is_a_models_first_version_and_a_folder_holds_several(tmp_path):
    paths = [
        touched(tmp_path / name) for name in ("b.onnx", "a/2.onnx", "a/10.onnx", "c-1.0_x/1.onnx")
    ]
    assert discover(tmp_path) == [
        ModelFile("a", 2, paths[1]),
        ModelFile("a", 10, paths[2]),
        ModelFile("b", 1, paths[0]),
        ModelFile("c-1.0_x", 1, paths[3]),
    ]


def test_other_files_beside_them_are_left_alone(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    names = (
        "README.md",
        "a.onnx.part",
        "a/notes.txt",
        "deep/er/1.onnx",
        "lost+found/x.onnx",
        "._b.onnx",
        "..data/b.onnx",
    )
    for name in (*names, "b.onnx"):
        touched(tmp_path / name)
    assert [file.name for file in discover(tmp_path)] == ["b"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelSelectionError, match=r"nowhere: can't be read .*No such file"):
        discover(tmp_path / "nowhere")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    with pytest.raises(ModelSelectionError, match=r"a\.onnx: can't be read .*Not a directory"):
        discover(touched(tmp_path / "a.onnx"))


def test_a_folder_without_models_is_told_how_to_get_one(tmp_path):
    touched(tmp_path / "README.md")
    with pytest.raises(ModelSelectionError, match="resnet-export export"):
        discover(tmp_path)


@pytest.mark.parametrize("name", ["has space", "-x", "ümlaut", "a" * 101, "a:b", "a\nb"])
def test_a_name_that_could_not_be_asked_for_is_refused(tmp_path, name):
    """It goes into queries, metrics and logs."""
    touched(tmp_path / f"{name}.onnx")
    with pytest.raises(ModelSelectionError, match="letters, digits"):
        discover(tmp_path)
    (tmp_path / f"{name}.onnx").unlink()
    touched(tmp_path / name / "1.onnx")
    with pytest.raises(ModelSelectionError, match="letters, digits"):
        discover(tmp_path)


@pytest.mark.parametrize("version", ["latest", "0", "-1", "01", "1.5", "1234567890", "٣", "1٣"])
def test_a_version_is_a_whole_number_from_one(tmp_path, version):
    path = touched(tmp_path / "color" / f"{version}.onnx")
    with pytest.raises(ModelSelectionError, match=r"color/1\.onnx") as caught:
        discover(tmp_path)
    assert str(path) in str(caught.value)


def test_the_built_in_model_comes_with_the_package():
    file = builtin_file()
    assert (file.name, file.version) == ("slim-resnet50", 1)
    assert file.path.is_file()
