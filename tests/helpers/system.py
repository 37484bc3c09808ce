"""Other programs that some tests need; if one is missing, the test fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Return the path of a program."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.fail(f"{name} is not installed; this test needs it")
    return path


def page(url: str, folder: Path, *flags: str) -> str:
    """Return a page's HTML after its scripts have run in headless Chromium."""
    command = [
        program("chromium"), "--headless", "--no-sandbox", "--disable-gpu",
        "--disable-dev-shm-usage", f"--user-data-dir={folder}", "--virtual-time-budget=20000",
        *flags, "--dump-dom", url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
