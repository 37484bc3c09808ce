"""Where images come from."""

from __future__ import annotations

import io
import tarfile

import pytest
from images import colored
from PIL import Image

from service.bench.errors import ImagesError
from service.bench.images import read_images


@pytest.fixture
def folder(tmp_path):
    """Three distinct images, one of them twice, a note, and a folder in the folder."""
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "b.JPEG").write_bytes(colored("blue", image_format="JPEG"))
    (tmp_path / "a.png").write_bytes(colored("red"))
    (tmp_path / "copy.png").write_bytes(colored("red"))
    (inner / "c.webp").write_bytes(colored("green", image_format="WEBP"))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_a_folder_gives_its_distinct_images_in_order(folder):
    images = read_images(str(folder), 10, 0)
    assert images[:2] == [colored("red"), colored("blue", image_format="JPEG")]
    assert len(images) == 3
    assert read_images(str(folder), 1, 0) == images[:1]


def test_a_tar_gives_the_same(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("tar") / "images.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "images")
    assert sorted(read_images(str(path), 10, 0)) == sorted(read_images(str(folder), 10, 0))


@pytest.mark.parametrize("packed", [True, False])
def test_hidden_copies_are_left_out(folder, tmp_path_factory, packed):
    """Of editors and of macOS, which no server could answer."""
    expected = read_images(str(folder), 10, 0)
    (folder / "._a.png").write_bytes(b"resource fork")
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "a.png").write_bytes(colored("blue"))
    source = folder
    if packed:
        source = tmp_path_factory.mktemp("tar") / "images.tar"
        with tarfile.open(source, "w") as archive:
            archive.add(folder, "images")
    assert sorted(read_images(str(source), 10, 0)) == sorted(expected)


def test_a_tar_that_ends_early_is_told(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("tar") / "images.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, "images")
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ImagesError, match="can't be read: Compressed file ended"):
        read_images(str(path), 10, 0)


def test_synthetic_images_are_distinct_repeatable_jpegs():
    images = read_images("synthetic:64x48", 5, 7)
    assert len(set(images)) == 5
    assert images == read_images("synthetic:64x48", 5, 7)
    with Image.open(io.BytesIO(images[0])) as image:
        assert (image.format, image.size) == ("JPEG", (64, 48))


def test_what_holds_no_images_is_refused(tmp_path):
    with pytest.raises(ImagesError, match="No such file"):
        read_images(str(tmp_path / "none"), 1, 0)
    with pytest.raises(ImagesError, match="has no images"):
        read_images(str(tmp_path), 1, 0)
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(ImagesError, match="can't be read"):
        read_images(str(tmp_path / "text"), 1, 0)
