"""The key that a client sends, from its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.access.keys import new_key
from service.access.scopes import Scope
from service.access.sent import checked_key, key_in


def test_a_key_that_was_made_can_be_sent_and_its_file_may_end_in_a_new_line(tmp_path):
    key, _ = new_key("a" * 64, (Scope.CLASSIFY,), None)
    (tmp_path / "key").write_text(f" {key}\r\n")
    assert key_in(tmp_path / "key") == checked_key(key) == key


@pytest.mark.parametrize("content", [b"", b"\n", b"secret\nsecret", b"secret secret", b"\xffsecret",
                                     b"secret" * 100])  # fmt: skip
def test_what_no_header_can_carry_is_refused_and_not_shown(tmp_path, content):
    """It may be a key all the same, with something before or behind it."""
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ValueError, match="one word of 1 to 500 visible ASCII") as refused:
        key_in(tmp_path / "key")
    assert "secret" not in str(refused.value)


def test_a_file_that_can_not_be_read_is_told():
    with pytest.raises(ValueError, match="can't be read: No such file"):
        key_in(Path("/nowhere"))
