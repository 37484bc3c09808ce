"""Starts BentoML with app.py."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.peers.work import run_program, task


def main() -> None:
    """Become `bentoml serve`."""
    os.environ |= {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(Path.cwd())}
    run_program(
        "bentoml", "serve", "benchmarks.peers.bentoml.app:Classify",
        "--host", "127.0.0.1", "--port", str(task().port),
    )  # fmt: skip


if __name__ == "__main__":
    main()
