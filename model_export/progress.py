"""How far a command is, on stderr: a bar on a terminal, and elsewhere a line for each step."""

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
    """Show what is done in the block. One that `has_bar` of its own shows that on a terminal."""
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
    """Make a bar that counts, on a terminal only."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TimeRemainingColumn())  # fmt: skip
    return Progress(*columns, console=console, transient=True,
                    disable=not (shown and console.is_terminal))  # fmt: skip
