"""Runs `resnet-serve classify`: from the paths to the file, through the journal."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from service.classify.backends import Backend, backend_of
from service.classify.errors import JournalError, OutputError, SourceError
from service.classify.formats import encoder, write
from service.classify.journal import Journal, journal_of
from service.classify.options import ClassifyOptions
from service.classify.rows import Row, rows_of, shown
from service.classify.sources import Item, items_of
from service.files import replacing
from service.image_files import no_images
from service.progress import Progress


@dataclass(slots=True)
class Count:
    """How many rows there are, and how many of them have an error."""

    rows: int = 0
    errors: int = 0

    def add(self, row: Row) -> None:
        """Count a row."""
        self.rows += 1
        self.errors += "error" in row


def to_stream(options: ClassifyOptions, name: str, stream: BinaryIO, progress: Progress) -> Count:
    """Write each row to a stream as soon as it is there; raises a `StartupError`, or `OSError`."""
    count = Count()
    with backend_of(options) as backend:
        progress.clear()
        told = None if stream.isatty() else progress  # rows on a terminal are progress enough
        rows = _counted(rows_of(_some(options), backend.classify), count, told)
        with closing(rows):
            for piece in encoder(name, backend.top_k)(rows):
                stream.write(piece)
                stream.flush()
    return count


def to_file(options: ClassifyOptions, name: str, output: Path, progress: Progress) -> Count:
    """Write all rows to a file in the end, and until then to its journal.

    Raises a `StartupError`; an interrupted or failed run leaves the journal.
    """
    path = journal_of(output)
    if path.exists() and not options.resume:
        raise JournalError(
            f"{path}: an earlier run was cut off; continue it with --resume, or remove the file"
        )
    count = Count()
    try:
        with backend_of(options) as backend:
            about = {**backend.about, "top_k": backend.top_k, "paths": list(options.paths)}
            with Journal(path, about) as journal:
                _fill(journal, options, backend, count, progress)
                progress.show(f"writing {output}")
                _finish(journal, name, output, backend.top_k)
    except OSError as error:
        where = error.filename or output
        raise OutputError(f"{where}: can't be written: {error.strerror or error}") from error
    return count


def _fill(
    journal: Journal, options: ClassifyOptions, backend: Backend, count: Count, progress: Progress
) -> None:
    """Add the rows that the journal does not have yet."""
    items = _some(options)
    for row in journal.earlier():
        count.add(row)
        item = next(items, None)
        if item is None or shown(item.name) != row["file"]:
            found = "not there" if item is None else shown(item.name)
            raise JournalError(
                f"{journal.path}: image {count.rows} was {row['file']} and is {found} now: the "
                "images have changed; remove the file to begin anew"
            )
        progress.show(f"{count.rows} images were classified before")
    with closing(_counted(rows_of(items, backend.classify), count, progress)) as rows:
        for row in rows:
            journal.add(row)


def _finish(journal: Journal, name: str, output: Path, top_k: int) -> None:
    rows = (json.loads(line) for line in journal.lines())
    with replacing(output) as temporary, temporary.open("wb") as file:
        write(name, rows, top_k, file)
    journal.remove()


def _some(options: ClassifyOptions) -> Iterator[Item]:
    """Return the items; raises `SourceError` if there is none."""
    items = items_of(options.paths)
    first = next(items, None)
    if first is None:
        raise SourceError(no_images(", ".join(options.paths)))
    return chain([first], items)


def _counted(rows: Iterator[Row], count: Count, progress: Progress | None) -> Generator[Row]:
    begun, before = time.perf_counter(), count.rows
    for row in rows:
        count.add(row)
        yield row
        if progress is None:
            continue
        rate = (count.rows - before) / max(time.perf_counter() - begun, 1e-9)
        failed = f", {count.errors} with errors" if count.errors else ""
        progress.show(f"{count.rows} images, {rate:.0f} images/s{failed}")
