"""The rows of a run that was cut off."""

from __future__ import annotations

import json

import pytest

from service.classify.errors import JournalError
from service.classify.journal import Journal, journal_of

ABOUT = {"model": "m", "top_k": 5, "paths": ["a"]}


def row(name: str) -> dict[str, object]:
    return {"file": name, "labels": []}


@pytest.fixture
def path(tmp_path):
    return journal_of(tmp_path / "labels.csv")


def test_a_journal_lies_beside_the_output(path):
    assert path.name == "labels.csv.partial"


def test_rows_are_there_again_after_a_run_that_was_cut_anywhere(path):
    """Whatever is left of the last line: complete rows stay, and the next goes behind them."""
    with Journal(path, ABOUT) as journal:
        journal.add(row("1"))
        journal.add(row("2\n\N{SNOWMAN}"))
    whole, before = path.read_bytes(), ["1", "2\n\N{SNOWMAN}"]
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        complete = max(whole[:end].count(b"\n") - 1, 0)
        with Journal(path, ABOUT) as journal:
            assert len(list(journal.earlier())) == complete
            journal.add(row("3"))
            names = [json.loads(line)["file"] for line in journal.lines()]
        assert names == [*before[:complete], "3"]


def test_rows_are_in_the_file_before_the_end(path):
    now = 0.0
    with Journal(path, ABOUT, clock=lambda: now) as journal:
        journal.add(row("1"))
        now = 1.0
        journal.add(row("2"))
        assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize(
    ("about", "named"),
    [
        (ABOUT | {"top_k": 3}, "another top_k: 5, and not 3"),
        (ABOUT | {"url": "http://x"}, "another url: None"),
        ({"model": "m", "top_k": 5}, "another paths"),
    ],
)
def test_a_run_about_something_else_is_refused(path, about, named):
    with Journal(path, ABOUT):
        pass
    with pytest.raises(JournalError, match=named):
        Journal(path, about)


@pytest.mark.parametrize("content", [b"[1]\n", b"notes\n", b"\xff\n"])
def test_a_file_that_is_no_journal_stays_as_it_is(path, content):
    path.write_bytes(content)
    with pytest.raises(JournalError, match="is not the journal of a run"):
        Journal(path, ABOUT)
    assert path.read_bytes() == content


def test_two_runs_can_not_write_the_same_journal(path):
    with Journal(path, ABOUT), pytest.raises(JournalError, match="another run is writing it"):
        Journal(path, ABOUT)
