"""Users' images are found with their classes, or it is said which are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from photos import colored, photo_folder, tar_of

from model_export.errors import ImagesError
from model_export.images import labelled, open_images, spread
from service.contract import Label

LABELS = [
    Label(id="n01", label="red"),
    Label(id="n02", label="green"),
    Label(id="n03", label="blue"),
]
RED, GREEN = colored("red", 0), colored("green", 0)


def classes_of(path: Path) -> dict[str, int]:
    with open_images(path) as images:
        return {one.name: one.index for one in labelled(images, LABELS, path)}


def test_a_class_is_its_folders_name(tmp_path: Path):
    """A label; the order is the names', whatever the file system's is."""
    folder = photo_folder(tmp_path / "photos", images=2)
    assert list(classes_of(folder).items()) == [
        ("blue/0.jpg", 2), ("blue/1.jpg", 2), ("green/0.jpg", 1), ("green/1.jpg", 1),
        ("red/0.jpg", 0), ("red/1.jpg", 0),
    ]  # fmt: skip


def test_a_class_may_be_an_id_in_a_folders_or_a_files_name(tmp_path: Path):
    files = {"val/n02/a.JPEG": GREEN, "n01_17.jpeg": RED, "n02.png": GREEN, "notes.txt": b"hello"}
    found = classes_of(tar_of(files, tmp_path / "photos.tar"))
    assert found == {"n01_17.jpeg": 0, "n02.png": 1, "val/n02/a.JPEG": 1}


def test_the_longest_beginning_that_is_a_class_counts(tmp_path: Path):
    """One class's id may begin another's, and ids have underscores and dots too."""
    labels = [
        Label(id="cat", label="a"),
        Label(id="cat_wild", label="b"),
        Label(id="v1.0", label="c"),
    ]
    files = {"cat_3.jpg": RED, "cat_wild_3.jpg": RED, "cat_wild.jpg": RED, "v1.0_7.jpg": RED}
    path = tar_of(files, tmp_path / "photos.tar")
    with open_images(path) as images:
        found = {one.name: one.index for one in labelled(images, labels, path)}
    assert found == {"cat_3.jpg": 0, "cat_wild.jpg": 1, "cat_wild_3.jpg": 1, "v1.0_7.jpg": 2}


def test_the_nearest_folder_that_is_a_class_counts(tmp_path: Path):
    files = {"red/indoor/1.jpg": RED, "red/green/1.jpg": GREEN, "n03/n01_1.jpg": RED}
    found = classes_of(tar_of(files, tmp_path / "photos.tar"))
    assert found == {"red/indoor/1.jpg": 0, "red/green/1.jpg": 1, "n03/n01_1.jpg": 2}


@pytest.mark.parametrize("packed", [True, False])
def test_hidden_copies_are_left_out(tmp_path: Path, packed: bool):
    """Of editors and of macOS."""
    folder = photo_folder(tmp_path / "photos", images=1)
    (folder / "red" / ".checkpoints").mkdir()
    (folder / "red" / ".checkpoints" / "0.jpg").write_bytes(RED)
    (folder / "red" / "._0.jpg").write_bytes(b"resource fork")
    path = folder
    if packed:
        path = tar_of(
            {f"./{file.relative_to(folder)}": file.read_bytes() for file in folder.rglob("*.jpg")},
            tmp_path / "photos.tar",
        )
    assert sorted(classes_of(path).values()) == [0, 1, 2]


@pytest.mark.parametrize("packed", [True, False])
def test_annotations_decide_where_there_are_some(tmp_path: Path, packed: bool):
    """In their order, as in Tiny-ImageNet's validation set."""
    files = {
        "val/images/val_1.JPEG": RED,
        "val/images/val_0.JPEG": GREEN,
        "val/val_annotations.txt": b"val_1.JPEG\tn01\t0\t0\t9\t9\nval_0.JPEG\tn02\t0\t0\t9\t9\n",
    }
    if packed:
        path = tar_of(files, tmp_path / "val.tar")
    else:
        path = tmp_path / "val"
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    assert list(classes_of(path).items()) == [
        ("val/images/val_1.JPEG", 0),
        ("val/images/val_0.JPEG", 1),
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("val_1.JPEG\tn09", "line 1: there is no class 'n09'"),
        ("x.JPEG\tn01", "there is no image x"),
    ],
)
def test_wrong_annotations_are_told_by_line(tmp_path: Path, row: str, message: str):
    files = {"val_1.JPEG": RED, "val_annotations.txt": row.encode()}
    with pytest.raises(ImagesError, match=message):
        classes_of(tar_of(files, tmp_path / "val.tar"))


def test_images_of_no_class_are_told(tmp_path: Path):
    folder = photo_folder(tmp_path / "photos", images=2)
    (folder / "red").rename(folder / "crimson")
    with pytest.raises(ImagesError, match=r"2 of 6 images .*crimson/0\.jpg") as caught:
        classes_of(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file"),
        ("empty", "has no images"),
        ("text.tar", "neither a folder nor a complete tar"),
    ],
)
def test_what_holds_no_images_is_told(tmp_path: Path, name: str, message: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar").write_text("hello")
    with pytest.raises(ImagesError, match=message), open_images(tmp_path / name):
        pass


def test_images_are_spread_over_all_classes():
    """Names are sorted by class."""
    names = [f"{label}/{number}" for label in "abcd" for number in range(10)]
    assert [name[0] for name in spread(names, 4)] == ["a", "b", "c", "d"]
    assert spread(names, 100) == spread(names, None) == names
