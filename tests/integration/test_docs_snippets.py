"""What the documentation shows of the Python interfaces and of `classify` is what happens."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from process import PROGRAM, clean_environment, run_to_end, serving
from waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
CLIENTS = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", CLIENTS, re.DOTALL)


def test_there_are_snippets_with_their_output():
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_snippet_prints_what_the_documentation_says(number):
    code, output = SNIPPETS[number]
    with serving() as server:
        ended = subprocess.run(
            [sys.executable, "-c", code.replace("http://127.0.0.1:8000", server.url)],
            cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=PATIENCE_S,
            check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, output), ended.stderr


def test_classify_prints_what_the_documentation_says():
    command, output = re.findall(r"\$ resnet-serve (classify \S+ --top-k 2)\n(.*)\n", CLIENTS)[0]
    ended = run_to_end([*PROGRAM, *command.replace("examples", f"{ROOT}/examples").split()])
    assert ended.stdout.replace(f"{ROOT}/", "") == f"{output}\n"
