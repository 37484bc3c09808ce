"""Rows as a table, JSON Lines, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from service.classification import Classification, Prediction
from service.classify.formats import format_of, write
from service.classify.options import FORMATS
from service.classify.rows import row_of
from service.errors import NotAnImageError

LABELS = (Prediction("n1", "tabby", 3, 0.75), Prediction("n2", 'a "cat", black', 5, 0.125))
ROWS = [
    row_of("a.jpg", Classification(LABELS, 640, 480, "m", 2)),
    row_of("odd\n\x1b[2J\udcff.png", NotAnImageError("no image")),
]


def written(name: str, rows: Any = tuple(ROWS), top_k: int = 2) -> bytes:
    file = io.BytesIO()
    write(name, iter(rows), top_k, file)
    return file.getvalue()


def test_json_lines_have_an_object_each():
    first, second = map(json.loads, written("jsonl").splitlines())
    assert first["labels"][1] == {
        "id": "n2", "label": 'a "cat", black', "index": 5, "probability": 0.125,
    }  # fmt: skip
    assert (first["file"], first["width"], first["model"], first["version"]) == (
        "a.jpg",
        640,
        "m",
        2,
    )
    assert second["error"]["code"] == "not_an_image"
    assert second["file"] == "odd\n\x1b[2J\\udcff.png"


def test_csv_has_the_same_columns_in_each_row():
    header, *rows = csv.reader(io.StringIO(written("csv", top_k=3).decode()))
    assert {len(row) for row in rows} == {len(header)}
    first, second = (dict(zip(header, row, strict=True)) for row in rows)
    assert (first["label_2"], first["probability_1"], first["label_3"]) == (
        'a "cat", black',
        "0.75",
        "",
    )
    assert (second["file"], second["error"]) == (ROWS[1]["file"], "not_an_image")


def test_parquet_has_what_json_has():
    table = pyarrow.parquet.read_table(io.BytesIO(written("parquet", ROWS * 7000)))
    assert table.num_rows == 14_000
    rows = table.slice(13_998).to_pylist()
    assert [{k: v for k, v in row.items() if v is not None} for row in rows] == ROWS


def test_a_table_shows_no_control_characters():
    text = written("table").decode()
    assert text.splitlines()[0] == 'a.jpg  tabby 75.0%, a "cat", black 12.5%'
    assert "\x1b" not in text
    assert text.count("\n") == 2


def test_no_rows_are_a_file_too():
    for name in FORMATS:
        assert written(name, []) is not None
    assert pyarrow.parquet.read_table(io.BytesIO(written("parquet", []))).num_rows == 0


@pytest.mark.parametrize(
    ("output", "on_terminal", "expected"),
    [
        (None, True, "table"), (None, False, "jsonl"), ("a.csv", True, "csv"),
        ("a.PARQUET", False, "parquet"), ("a.txt", False, "table"), ("labels", False, "jsonl"),
    ],
)  # fmt: skip
def test_the_format_follows_from_where_the_rows_go(output, on_terminal, expected):
    path = None if output is None else Path(output)
    assert format_of(path, on_terminal=on_terminal) == expected
