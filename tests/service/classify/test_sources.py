"""What is classified of what is named, and in which order."""

from __future__ import annotations

import io
import os
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest

from service.classify import sources
from service.classify.errors import SourceError
from service.classify.sources import check_paths, items_of
from service.errors import UnreadableImageError


def found(*paths: object, stdin: bytes = b"") -> dict[str, object]:
    """Read each item as it comes, as `rows_of` does."""
    items = items_of([str(path) for path in paths], io.BytesIO(stdin))
    return {item.name: told(item.read()) for item in items}


def told(content: object) -> object:
    return content.detail if isinstance(content, UnreadableImageError) else content


def tar_of(files: dict[str, bytes], mode: Any = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a/2.jpg", "a/1.JPG", "a/.1.jpg", "notes.txt", ".x/1.jpg", "c.avif"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "photos"


def test_a_folder_has_its_images_in_order_without_hidden_ones(folder):
    assert list(found(folder)) == [
        f"{folder}/{n}" for n in ("a/1.JPG", "a/2.jpg", "b.png", "c.avif")
    ]
    assert found(folder)[f"{folder}/b.png"] == b"b.png"


def test_a_file_that_is_named_is_taken_whatever_it_is_called(folder):
    assert found(folder / "notes.txt", folder / ".x/1.jpg") == {
        f"{folder}/notes.txt": b"notes.txt",
        f"{folder}/.x/1.jpg": b".x/1.jpg",
    }


def test_a_pattern_has_its_matches_in_order_unless_a_file_is_called_like_it(folder):
    assert list(found(f"{folder}/**/*.jpg")) == [f"{folder}/a/2.jpg"]
    assert list(found(f"{folder}/[ab]*")) == [
        f"{folder}/a/1.JPG", f"{folder}/a/2.jpg", f"{folder}/b.png",
    ]  # fmt: skip
    (folder / "[ab]*").write_bytes(b"itself")
    assert found(f"{folder}/[ab]*") == {f"{folder}/[ab]*": b"itself"}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_known_by_its_content_and_keeps_its_order(tmp_path, mode):
    data = tar_of({"2.png": b"two", "x/1.png": b"one", "notes.txt": b"", "._1.png": b""}, mode)
    path = tmp_path / "archive"
    path.write_bytes(data)
    assert found(path) == {f"{path}/2.png": b"two", f"{path}/x/1.png": b"one"}
    assert found("-", stdin=data) == {"-/2.png": b"two", "-/x/1.png": b"one"}


def test_an_image_may_come_from_standard_input():
    assert found("-", stdin=b"an image" * 1000) == {"-": b"an image" * 1000}
    assert found("-", stdin=b"") == {"-": b""}


@pytest.mark.parametrize("standard_input", [False, True])
def test_a_tar_that_ends_early_has_an_error_in_the_place_of_the_rest(tmp_path, standard_input):
    files = {"1.png": b"one", "2.png": b"2" * 5000}
    path = tmp_path / "cut.tar"
    path.write_bytes(tar_of(files)[:3000])
    name = "-" if standard_input else str(path)
    seen = found(name, stdin=path.read_bytes())
    assert seen.pop(f"{name}/1.png") == b"one"
    assert seen
    assert all("can't be read" in str(error) for error in seen.values())


def test_damaged_compression_is_an_error_in_the_place_of_the_rest(tmp_path):
    draw = random.Random(1)
    contents = (bytes(draw.choices(range(40), k=3000)) for _ in range(50))
    whole = tar_of({f"{i}.png": content for i, content in enumerate(contents)}, "w:gz")
    path, middle = tmp_path / "damaged.tgz", len(whole) // 2
    path.write_bytes(whole[:middle] + b"\xff" * 200 + whole[middle + 200 :])
    *good, last = found(path).values()
    assert len(good) > 5
    assert "can't be read" in str(last)


def test_what_can_not_be_read_is_an_item_too(folder, monkeypatch):
    link = folder / "gone.png"
    link.symlink_to("nowhere")
    assert found(folder / "a" / "1.JPG", folder) | {} == found(folder)  # a dangling link is no file
    monkeypatch.setattr(sources, "MOST_BYTES", 6)
    assert "is larger than 6 bytes" in str(found(folder)[f"{folder}/a/1.JPG"])


def test_a_folder_that_can_not_be_listed_is_an_item(folder, monkeypatch):
    listed = os.scandir

    def scandir(path):
        if Path(path).name == "a":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    seen = found(folder)
    assert list(seen) == [f"{folder}/a", f"{folder}/b.png", f"{folder}/c.avif"]
    assert "Permission denied" in str(seen[f"{folder}/a"])


def test_a_tar_of_many_images_does_not_stay_in_memory(tmp_path):
    path = tmp_path / "many.tar"
    path.write_bytes(tar_of({f"{i}.png": b"x" for i in range(50)}))
    with tarfile.open(path) as archive:
        for item in sources._members(archive, "many"):
            assert item.read() == b"x"
            assert len(vars(archive)["members"]) <= 1


def test_paths_that_are_not_there_are_told_before_anything_is_done(folder):
    check_paths([str(folder), "-", f"{folder}/*.png"])
    for paths in (["nowhere"], [str(folder), f"{folder}/*.gif"], ["-", "-"]):
        with pytest.raises(SourceError):
            check_paths(paths)
