"""Shows a command's progress on stderr: a bar on a terminal, otherwise one line per step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def step(title: str, *, has_bar: bool = False) -> Iterator[None]:
    """Show what the block does; if it `has_bar` of its own, only that appears on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        sys.stderr.write(f"{title} ...\n")
        sys.stderr.flush()
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=has_bar) as display:
        display.add_task(title, total=None)
        yield


def counted(*, shown: bool = True) -> Progress:
    """Return a counting progress bar, which is only shown on a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    return Progress(*columns, console=console, transient=True,
                    disable=not (shown and console.is_terminal))  # fmt: skip
