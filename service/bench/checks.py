"""Checks the files, address and process that flags name, before anything slow is imported."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from service.bench.errors import OptionError
from service.bench.options import STDOUT, SYNTHETIC, BenchOptions
from service.bench.target import target_of


def check(options: BenchOptions) -> None:
    """Check that files can be read, reports can be written, and the address is allowed.

    Otherwise errors would appear only after minutes of load. Raises `OptionError` or `TargetError`.
    """
    if options.target_url is not None:
        target_of(options.target_url, options.api_key_file)
    if not SYNTHETIC.fullmatch(options.images) and not Path(options.images).is_dir():
        _can_open("--images", Path(options.images), "rb")
    if options.trace is not None:
        _can_open("--trace", options.trace, "rb")
    if options.model_file is not None:
        _can_open("--model-file", options.model_file, "rb")
    if options.server_pid is not None and not psutil.pid_exists(options.server_pid):
        raise OptionError(f"--server-pid: there is no process {options.server_pid}")
    for flag, path in (("--json", options.json_file), ("--html", options.html_file)):
        if path is not None and path != STDOUT:
            _can_open(flag, path, "ab")


def _can_open(flag: str, path: Path, mode: str) -> None:
    is_new = not os.path.lexists(path)
    try:
        path.open(mode).close()
        if is_new:  # a benchmark that then fails must leave no empty report
            path.unlink()
    except OSError as error:
        done = "read" if mode == "rb" else "written"
        raise OptionError(f"{flag} {path}: can't be {done}: {error.strerror}") from error
