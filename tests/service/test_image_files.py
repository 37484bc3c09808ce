"""What of a folder is an image."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from service.image_files import cannot_read, files_in, images_in, is_image, no_images


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("a.jpg", True),
        ("A.JPEG", True),
        ("in/a.tiff", True),
        ("./a.png", True),
        ("a.avif", True),
        ("a.heic", True),
        ("notes.txt", False),
        ("jpg", False),
        (".jpg", False),
        ("._a.jpg", False),
        (".in/a.jpg", False),
    ],
)
def test_an_image_is_known_by_its_name(name, image):
    assert is_image(PurePosixPath(name)) is image


def test_a_folder_is_searched_through_in_order(tmp_path):
    """A hidden folder above it does not count."""
    folder = tmp_path / ".data"
    for name in ("b.png", "a/2.jpg", "a/1.jpg", "a/.1.jpg", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "folder.png").mkdir()
    assert [str(file) for file in images_in(folder)] == ["a/1.jpg", "a/2.jpg", "b.png"]
    assert [str(file) for file in files_in(folder)] == ["a/1.jpg", "a/2.jpg", "b.png", "notes.txt"]


def test_what_is_wrong_is_said_in_one_line():
    assert (
        cannot_read("x", FileNotFoundError(2, "No such file")) == "x: can't be read: No such file"
    )
    assert cannot_read("x", EOFError("ended:\nthere")) == "x: can't be read: ended"
    assert no_images("x").startswith("x: has no images (.avif, ")
