"""`scripts/serve` says what it does, since the first time takes a while.

Python and pip are stand-ins: an installation needs an index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"

PYTHON = """\
#!/bin/sh
[ "$1" = -c ] && exit 0
mkdir -p "$3/bin"
printf '#!/bin/sh\\necho "pip $*"\\n' > "$3/bin/pip"
printf '#!/bin/sh\\necho "resnet-serve $*"\\n' > "$3/bin/resnet-serve"
chmod +x "$3/bin/pip" "$3/bin/resnet-serve"
"""


@pytest.fixture
def checkout(tmp_path):
    root = tmp_path / "a checkout"
    (root / "scripts").mkdir(parents=True)
    for name in ("serve", "venv"):
        shutil.copy(SCRIPTS / name, root / "scripts" / name)
    (root / "service").mkdir()
    (root / "service" / "app.py").write_text("")
    (root / "pyproject.toml").write_text("")
    (root / "python").write_text(PYTHON)
    (root / "python").chmod(0o755)
    return root


def run(checkout: Path, *flags: str) -> tuple[str, list[str]]:
    """What it prints: stdout, and the lines of stderr."""
    environment = os.environ | {"PYTHON": str(checkout / "python"), "RUNTIME": "cpu"}
    ended = subprocess.run(
        [str(checkout / "scripts" / "serve"), *flags], env=environment, capture_output=True,
        text=True, check=True, timeout=60,
    )  # fmt: skip
    return ended.stdout, ended.stderr.splitlines()


def test_the_first_time_tells_each_step_and_shows_pips_progress(checkout):
    printed, told = run(checkout, "--port", "0")
    assert printed == "resnet-serve serve --port 0\n"
    assert told == [
        f"scripts/serve: making the virtual environment {checkout}/.venv (once)",
        "scripts/serve: installing the service for cpu into .venv (some 60 MB to download, once)",
        f"pip install --disable-pip-version-check {checkout}[cpu]",
        "scripts/serve: starting: resnet-serve serve --port 0",
    ]


def test_the_next_time_installs_nothing(checkout):
    run(checkout)
    (checkout / "service" / "__pycache__").mkdir()
    (checkout / "service" / "__pycache__" / "app.pyc").write_text("compiled")
    assert run(checkout)[1] == ["scripts/serve: starting: resnet-serve serve "]


def test_a_change_of_the_source_is_installed_and_named(checkout):
    run(checkout)
    later = time.time() + 60
    os.utime(checkout / "service" / "app.py", (later, later))
    told = run(checkout)[1]
    assert told[0] == "scripts/serve: installing again, since service/app.py has changed"
    assert told[1].startswith("pip install ")
