"""Descriptors 0, 1 and 2, which whoever starts the program may have closed."""

from __future__ import annotations

import os
import sys


def open_missing_streams() -> None:
    """Open those that are closed on /dev/null. Call it before anything else opens a file.

    A file or connection that got such a number would be sent what libraries print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            os.set_inheritable(number, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - a number
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - a number
