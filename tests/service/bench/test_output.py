"""Where the program's reports go."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
from process import PROGRAM, clean_environment

LIMITS = ["bench", "--limits", "--images", "synthetic:32x32", "--image-count", "2"]


@pytest.fixture
def bench(serve):
    """Gives a function that runs the program as a process against a real server."""
    url = str(serve().base_url)

    def run(*flags: object, **streams: Any) -> subprocess.CompletedProcess[str]:
        command = [*PROGRAM, "bench", "--url", url, "--images", "synthetic:32x32",
                   "--image-count", "2", "--duration", "0.3", "--warm-up", "0"]  # fmt: skip
        return subprocess.run(
            [*command, *map(str, flags)], env=clean_environment(), text=True, timeout=60,
            check=False, **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams),
        )  # fmt: skip

    return run


def test_json_on_stdout_is_alone_there(bench, tmp_path):
    """The text goes to stderr, and a further report to its file."""
    ended = bench("--json", "-", "--html", tmp_path / "r.html")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["runs"][0]["ok"] > 0
    assert ended.stdout.endswith("}\n")
    assert "closed loop, 8 clients" in ended.stderr
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_html_can_go_there_too(bench):
    ended = bench("--html", "-")
    assert ended.stdout.startswith("<!doctype html>")
    assert ended.stdout.endswith("</html>\n")
    assert "closed loop, 8 clients" in ended.stderr


def test_without_that_the_text_is_on_stdout_and_nothing_on_stderr(bench):
    ended = bench()
    assert "closed loop, 8 clients" in ended.stdout
    assert ended.stderr == ""


def test_a_report_that_nobody_reads_is_told_in_one_line(bench):
    read, write = os.pipe()
    os.close(read)
    ended = bench(stdout=write)
    os.close(write)
    assert ended.returncode == 1
    assert ended.stderr == ("resnet-serve: error: the report can't be printed: Broken pipe\n")
