"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from full_disk import file_size_limited
from odd_files import ODD_FILES

from model_export.files import missing, replacing, sha256_of


def test_what_was_written_takes_the_place(tmp_path: Path):
    """The folder is made, an older file is replaced, nothing else stays."""
    target = tmp_path / "new" / "file"
    for content in (b"first", b"second"):
        with replacing(target) as temporary:
            temporary.write_bytes(content)
        assert target.read_bytes() == content
    assert list(target.parent.iterdir()) == [target]


def test_a_full_disk_is_told_with_the_file(tmp_path: Path):
    """Writing alone does not say which."""
    with (
        pytest.raises(OSError, match="File too large") as caught,
        file_size_limited(1000),
        replacing(tmp_path / "file") as temporary,
    ):
        temporary.write_bytes(bytes(2000))
    assert caught.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_another_file_is_named_as_it_is(tmp_path: Path):
    """What the block reads may be missing, too."""
    with (
        pytest.raises(FileNotFoundError, match="other"),
        replacing(tmp_path / "file") as temporary,
    ):
        temporary.write_bytes((tmp_path / "other").read_bytes())


def write_half(target: Path, error: BaseException) -> None:
    with replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_failure_leaves_the_older_file(tmp_path: Path, error: BaseException):
    """And no temporary one."""
    target = tmp_path / "file"
    target.write_bytes(b"older")
    with pytest.raises(type(error)):
        write_half(target, error)
    assert target.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [target]


def test_digest_is_of_the_whole_file(tmp_path: Path):
    """SHA-256 in hexadecimal."""
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ODD_FILES)
def test_what_is_no_file_is_named(tmp_path: Path, kind: str):
    """Without being opened."""
    make, told = ODD_FILES[kind]
    make(tmp_path / "odd")
    assert re.fullmatch(rf"{tmp_path}/odd: {told}", missing(tmp_path / "odd"))


def test_files_and_links_to_them_are_files(tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    assert missing(tmp_path / "file") == missing(tmp_path / "link") == ""
