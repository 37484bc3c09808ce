"""What a command line asks for, to be run once all of it was read."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

Job = Callable[[], None]


def job(module: str, function: str, *options: Any, **more: Any) -> Job:
    """Make a job that imports its function only when it is run: PyTorch alone takes seconds."""

    def run() -> None:
        getattr(importlib.import_module(module), function)(*options, **more)

    return run
