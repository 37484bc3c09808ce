"""Examples for clients of other servers in the documentation, run against the program."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from process import reserved_port, serving

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "clients.md").read_text().partition("\n## Clients of other servers")[2]
SECTION = SECTION.partition("\n## ")[0]
PROGRAMS = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
COMMANDS = re.findall(r"```console\n\$ (.*?[^\\])\n(.*?)```", SECTION, re.DOTALL)
NEEDS_KSERVE = "import kserve", "from kserve"


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    """The addresses of the built-in model's service, by those in the documentation."""
    with reserved_port() as port, serving("--grpc-port", port) as server:
        http = server.url.removeprefix("http://")
        yield {"127.0.0.1:8000": http, "127.0.0.1:8001": f"127.0.0.1:{port}"}


def run(command: list[str], text: str, addresses: dict[str, str]) -> str:
    for shown, real in addresses.items():
        text = text.replace(shown, real)
    done = subprocess.run(
        [*command, text], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("command", "printed"), COMMANDS)
def test_a_command_prints_what_the_readme_shows(addresses, command, printed):
    assert run(["bash", "-c"], command, addresses).strip() == printed.strip()


def programs(*, with_kserve: bool) -> list[str]:
    return [each for each in PROGRAMS if any(n in each for n in NEEDS_KSERVE) is with_kserve]


@pytest.mark.parametrize("program", programs(with_kserve=False))
def test_a_program_runs(addresses, program):
    assert re.search(r"tabby|\(2, 200\)", run([sys.executable, "-c"], program, addresses))


@pytest.mark.kserve
@pytest.mark.parametrize("program", programs(with_kserve=True))
def test_a_program_that_needs_kserve_runs(addresses, program):
    assert importlib.util.find_spec("kserve")
    assert "(1, 200)" in run([sys.executable, "-c"], program, addresses)


def test_every_example_is_among_them():
    assert (len(COMMANDS), len(PROGRAMS)) == (SECTION.count("```console"), 3)
