"""The rows of a run so far, in a file beside the output: a run that is cut off loses few of them.

A line of JSON about the run, then a row a line. `resume` drops a last line that is not complete.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from pydantic_core import to_json

from service.classify.errors import JournalError
from service.classify.rows import Row

_FLUSH_S = 0.5


def journal_of(output: Path) -> Path:
    """Return where the rows of a run are kept until it has ended."""
    return output.with_name(f"{output.name}.partial")


class Journal:
    """Rows that are appended and, after all, read again; only one process has it open."""

    def __init__(
        self,
        path: Path,
        about: Mapping[str, object],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the file, which may have rows of an earlier run.

        `about` says what the rows depend on. Raises `JournalError` if the earlier run was about
        something else or still goes on, and `OSError`.
        """
        self.path, self._clock = path, clock
        self._file: BinaryIO = path.open("a+b")
        try:
            self._lock()
            self._file.seek(0)
            first = self._file.readline()
            if first.endswith(b"\n"):
                self._check(first, about)
            else:
                self._file.truncate(0)
                self._file.write(to_json(about) + b"\n")
            self._flush()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise JournalError(f"{self.path}: another run is writing it") from error

    def _check(self, first: bytes, about: Mapping[str, object]) -> None:
        try:
            before = json.loads(first)
        except ValueError:
            before = None
        if not isinstance(before, dict):
            raise JournalError(f"{self.path}: is not the journal of a run")
        for name in dict.fromkeys((*before, *about)):
            if before.get(name) != about.get(name):
                raise JournalError(
                    f"{self.path}: is of a run with another {name}: {before.get(name)!r}, and not "
                    f"{about.get(name)!r}; repeat that run, or remove the file"
                )

    def earlier(self) -> Iterator[Row]:
        """Yield each complete row of an earlier run; what follows the last one is then dropped."""
        end = self._file.tell()
        for line in self._lines():
            try:
                row = json.loads(line)
            except ValueError:
                break
            yield row
            end += len(line)
        self._file.truncate(end)
        self._file.seek(end)

    def _lines(self) -> Iterator[bytes]:
        while (line := self._file.readline()).endswith(b"\n"):
            yield line

    def add(self, row: Row) -> None:
        """Append a row; it is in the file within half a second, or when the next one comes."""
        self._file.write(to_json(row) + b"\n")
        if self._clock() - self._flushed_at >= _FLUSH_S:
            self._flush()

    def _flush(self) -> None:
        self._file.flush()
        self._flushed_at = self._clock()

    def lines(self) -> Iterator[bytes]:
        """Yield all rows, each a line of JSON."""
        self._flush()
        self._file.seek(0)
        self._file.readline()
        yield from self._lines()

    def remove(self) -> None:
        """Remove the file: its rows are elsewhere."""
        self.path.unlink()

    def __enter__(self) -> Journal:
        """Return this journal, which the end of the block closes; the file stays."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        """Close the file."""
        self._file.close()
