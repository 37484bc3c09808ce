"""What is no file is named, and never opened."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from odd_files import ODD_FILES

from model_export.files import missing, resolved


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
    assert resolved(tmp_path / "link") == tmp_path / "file"


def test_a_link_to_itself_leads_nowhere(tmp_path: Path):
    """Which is no error by itself: whoever opens it gets one."""
    (tmp_path / "loop").symlink_to("loop")
    assert resolved(tmp_path / "loop").name == "loop"
