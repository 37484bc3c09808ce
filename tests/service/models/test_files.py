"""Which files of a folder are models, and what each is served as."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import ModelSelectionError
from service.models.files import ModelFile, PassedOver, builtin_file, discover


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_file_is_a_models_first_version_and_a_folder_holds_several(tmp_path):
    paths = [
        touched(tmp_path / name) for name in ("b.onnx", "a/2.onnx", "a/10.onnx", "c-1.0_x/1.onnx")
    ]
    assert discover(tmp_path).files == [
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
    found = discover(tmp_path)
    assert [file.name for file in found.files] == ["b"]
    assert found.passed_over == []


def test_what_looks_like_a_model_and_can_not_be_one_is_named_and_the_others_are_found(tmp_path):
    """Links that lead nowhere, suffixes in capitals, and names that nobody could ask for."""
    touched(tmp_path / "good.onnx")
    (tmp_path / "gone.onnx").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.onnx").symlink_to(tmp_path / "circle.onnx")
    touched(tmp_path / "LOUD.ONNX")
    touched(tmp_path / "has space.onnx")
    touched(tmp_path / "versions" / "latest.onnx")
    (tmp_path / "versions" / "2.onnx").symlink_to("../nowhere")
    found = discover(tmp_path)
    assert [file.name for file in found.files] == ["good"]
    named = {str(item.path.relative_to(tmp_path)): item.reason for item in found.passed_over}
    nowhere = "is a broken symbolic link"
    assert named.pop("LOUD.ONNX").endswith("does not end in lower-case .onnx")
    assert named.pop("has space.onnx").startswith("a model name must be 1 to 100 letters, digits")
    assert named.pop("versions/latest.onnx").endswith("as in versions/1.onnx")
    assert named == {"gone.onnx": nowhere, "circle.onnx": nowhere, "versions/2.onnx": nowhere}


def test_a_link_to_a_file_is_that_file(tmp_path):
    (tmp_path / "a.onnx").symlink_to(touched(tmp_path / "elsewhere" / "a.bin"))
    assert discover(tmp_path).files == [ModelFile("a", 1, tmp_path / "a.onnx")]


def test_a_folder_of_a_model_that_can_not_be_read_hides_no_other(tmp_path, monkeypatch):
    touched(tmp_path / "good.onnx")
    (tmp_path / "closed").mkdir()
    inner = Path.iterdir

    def iterdir(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return inner(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)  # tests may run as root, who may read it
    found = discover(tmp_path)
    assert [file.name for file in found.files] == ["good"]
    assert found.passed_over == [
        PassedOver(tmp_path / "closed", "can't be read: Permission denied")
    ]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelSelectionError, match=r"nowhere: can't be read .*No such file"):
        discover(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "name", "version"),
    [
        ("flowers.onnx", "flowers", 1),
        ("flowers/3.onnx", "flowers", 3),
        ("has space/3.onnx", "3", 1),
        ("FLOWERS.ONNX", "FLOWERS", 1),
    ],
)
def test_a_file_may_be_given_in_the_place_of_a_folder(tmp_path, file, name, version):
    """It is named as in its folder, and its neighbours are left alone."""
    path = touched(tmp_path / file)
    touched(path.with_name("other.onnx"))
    assert discover(path).files == [ModelFile(name, version, path)]


def test_a_file_whose_name_could_not_be_asked_for_is_refused_alone_too(tmp_path):
    with pytest.raises(ModelSelectionError, match=r"has space\.onnx: .*letters, digits"):
        discover(touched(tmp_path / "has space.onnx"))


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
