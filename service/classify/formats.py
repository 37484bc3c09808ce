"""What rows are written as: a table to read, JSON Lines, CSV or Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import to_json

from service.classify.errors import OptionError
from service.classify.options import CSV, JSONL, PARQUET, TABLE
from service.classify.rows import Row
from service.engine.builds import install_command

_SUFFIXES = {".jsonl": JSONL, ".ndjson": JSONL, ".csv": CSV, ".parquet": PARQUET, ".txt": TABLE}
_WIDEST = 48  # characters of a table's first column
_PARQUET_ROWS = 10_000  # at a time

Encode = Callable[[Iterable[Row]], Iterator[bytes]]


def format_of(output: Path | None, *, on_terminal: bool) -> str:
    """Return the format that a file's name or a terminal suggests."""
    if output is None:
        return TABLE if on_terminal else JSONL
    return _SUFFIXES.get(output.suffix.lower(), JSONL)


def check_format(name: str) -> None:
    """Raise `OptionError` if a format's library is not installed."""
    if name == PARQUET:
        try:
            import pyarrow.parquet  # noqa: F401, PLC0415 - an extra
        except ImportError as error:
            raise OptionError(
                f"--format parquet needs pyarrow; run {install_command('parquet')}"
            ) from error


def encoder(name: str, top_k: int) -> Encode:
    """Return what turns rows into the bytes of a text format, some for each row."""
    if name == JSONL:
        return _jsonl
    return _table if name == TABLE else lambda rows: _csv(rows, top_k)


def write(name: str, rows: Iterable[Row], top_k: int, file: BinaryIO) -> None:
    """Write rows in any format. Raises `OSError`."""
    if name == PARQUET:
        _write_parquet(rows, file)
        return
    for piece in encoder(name, top_k)(rows):
        file.write(piece)


def _jsonl(rows: Iterable[Row]) -> Iterator[bytes]:
    for row in rows:
        yield to_json(row) + b"\n"


def _table(rows: Iterable[Row]) -> Iterator[bytes]:
    width = 0
    for row in rows:
        file = _printable(row["file"])
        width = min(max(width, len(file)), _WIDEST)
        yield f"{file:<{width}}  {_told(row)}\n".encode()


def _told(row: Row) -> str:
    if "error" in row:
        return f"error: {_printable(row['error']['detail'])}"
    return ", ".join(f"{each['label']} {each['probability']:.1%}" for each in row["labels"])


def _printable(text: str) -> str:
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def _csv(rows: Iterable[Row], top_k: int) -> Iterator[bytes]:
    of_label = ("label", "id", "index", "probability")
    columns = [f"{name}_{i}" for i in range(1, top_k + 1) for name in of_label]
    fixed = ("file", "model", "version", "width", "height", "error", "detail")
    yield _csv_line([*fixed, *columns])
    for row in rows:
        error = row.get("error", {})
        cells = [row.get(name, "") for name in fixed[:5]]
        cells += [error.get("code", ""), error.get("detail", "")]
        labels = row.get("labels", ())
        cells += [each[name] for each in labels for name in of_label]
        yield _csv_line([*cells, *[""] * (len(of_label) * (top_k - len(labels)))])


def _csv_line(cells: list[Any]) -> bytes:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue().encode()


def _write_parquet(rows: Iterable[Row], file: BinaryIO) -> None:
    import pyarrow as pa  # noqa: PLC0415 - an extra
    import pyarrow.parquet as pq  # noqa: PLC0415

    text, number = pa.string(), pa.int32()
    label = pa.struct({"id": text, "label": text, "index": number, "probability": pa.float64()})
    schema = pa.schema(
        {
            "file": text, "labels": pa.list_(label), "width": number, "height": number,
            "model": text, "version": number,
            "error": pa.struct({"code": text, "title": text, "detail": text}),
        }
    )  # fmt: skip
    with pq.ParquetWriter(file, schema) as writer:
        for piece in _pieces(rows, _PARQUET_ROWS):
            writer.write_table(pa.Table.from_pylist(piece, schema))


def _pieces(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    piece: list[Row] = []
    for row in rows:
        piece.append(row)
        if len(piece) == size:
            yield piece
            piece = []
    if piece:
        yield piece
