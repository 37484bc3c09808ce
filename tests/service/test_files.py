"""Files appear whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from full_disk import file_size_limited

from service.files import replacing, sha256_of, user_cache


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


@pytest.mark.parametrize(
    ("home", "caches", "folder"),
    [
        ("/home/u", None, "/home/u/.cache/resnet-serve"),
        ("/home/u", "", "/home/u/.cache/resnet-serve"),
        ("/home/u", "caches", "/home/u/.cache/resnet-serve"),
        ("/home/u", "/caches", "/caches/resnet-serve"),
        (None, "/caches", "/caches/resnet-serve"),
    ],
)
def test_the_cache_is_where_a_users_caches_are(monkeypatch, home, caches, folder):
    """As the XDG Base Directory Specification says, which has relative paths passed over."""
    for name, value in (("HOME", home), ("XDG_CACHE_HOME", caches)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert user_cache() == Path(folder)


def test_without_a_home_there_is_no_cache(monkeypatch):
    """As in a container whose user is a number only."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 2)
    assert user_cache() is None
