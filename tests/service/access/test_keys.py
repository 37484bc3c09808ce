"""API keys and their file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.access.keys import MOST_KEYS, new_key, read_keys
from service.access.scopes import Scope
from service.cli import main
from service.errors import KeyFileError

HASH = "sha256:" + "0a" * 32


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_key_is_known_by_its_hash_and_no_two_are_the_same(tmp_path):
    key, known = new_key("shop", (Scope.CLASSIFY, Scope.METRICS), 2.5)
    other, _ = new_key("shop", (Scope.CLASSIFY,), None)
    assert key != other
    assert key.startswith("shop.")
    (read,) = read_keys(write(tmp_path / "keys", known.line()))
    assert read == known
    assert read.digest == hashlib.sha256(key.encode()).digest()
    assert key.partition(".")[2] not in known.line()


@pytest.mark.parametrize("rate", [1_000_000, 123_456.789, 0.000_01, 5])
def test_a_line_that_was_made_can_be_read_whatever_its_rate(tmp_path, rate):
    _, known = new_key("shop", (Scope.CLASSIFY,), rate)
    (read,) = read_keys(write(tmp_path / "keys", known.line()))
    assert read.rate == rate


def test_comments_and_empty_lines_are_passed_over(tmp_path):
    path = write(tmp_path / "keys", "# a comment", "", f"  a\t{HASH}  admin,metrics 5 ", "   # b")
    (key,) = read_keys(path)
    assert (key.name, key.rate) == ("a", 5)
    assert key.scopes == {Scope.ADMIN, Scope.METRICS}
    assert read_keys(write(path)) == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("a", "must be NAME"),
        (f"a {HASH} classify 1 2", "must be NAME"),
        (f"_a {HASH} classify", "a name is"),
        (f"{'a' * 65} {HASH} classify", "a name is"),
        (f"a.b {HASH} classify", "a name is"),
        ("a md5:00 classify", "the hash must be"),
        ("a shop.secret classify", "the hash must be"),
        (f"a {HASH.upper()} classify", "the hash must be"),
        (f"a {HASH} all", "there is no scope 'all'; allowed: classify, metrics, admin"),
        (f"a {HASH} public", "there is no scope 'public'"),
        (f"a {HASH} classify,", "there is no scope ''"),
        (f"a {HASH} classify 0", "a rate is"),
        (f"a {HASH} classify -1", "a rate is"),
        (f"a {HASH} classify nan", "a rate is"),
        (f"a {HASH} classify 1e9", "a rate is"),
    ],
)
def test_a_line_that_is_not_as_it_must_be_is_named(tmp_path, line, said):
    with pytest.raises(KeyFileError, match="line 2") as caught:
        read_keys(write(tmp_path / "keys", "# keys", line))
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_missing_too_large_or_has_a_name_twice_is_refused(tmp_path):
    with pytest.raises(KeyFileError, match="No such file"):
        read_keys(tmp_path / "none")
    with pytest.raises(KeyFileError, match="the name a was there before"):
        read_keys(write(tmp_path / "twice", f"a {HASH} admin", f"a {HASH} classify"))
    lines = [f"a{i} {HASH} classify" for i in range(MOST_KEYS + 1)]
    with pytest.raises(KeyFileError, match="1000 at most"):
        read_keys(write(tmp_path / "many", *lines))
    with pytest.raises(KeyFileError, match="larger than"):
        read_keys(write(tmp_path / "large", "#" * 2**20))


def test_the_command_prints_a_line_for_the_file_and_the_key_beside_it(tmp_path, capsys):
    assert main(["key", "shop", "--scopes", "classify,metrics", "--rate", "5"]) == 0
    line, said = capsys.readouterr()
    (known,) = read_keys(write(tmp_path / "keys", line))
    key = said.split()[-1]
    assert known.digest == hashlib.sha256(key.encode()).digest()
    assert (known.name, known.rate) == ("shop", 5)


@pytest.mark.parametrize("flags", [["a b"], ["a", "--scopes", "root"], ["a", "--rate", "0"]])
def test_a_mistake_of_the_command_is_one_line(flags, capsys):
    assert main(["key", *flags]) == 1
    assert capsys.readouterr().err.startswith("resnet-serve: error: ")
