"""The import contracts: what nobody allows fails."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

PLANTED = {
    "service/http/query.py": "from service.engine.base import Engine",
    "service/http/results.py": "from PIL import Image",
    "service/inference/deadline.py": "from starlette.requests import Request",
    "service/batching/costs.py": "import onnxruntime",
    "service/batching/queue.py": "from service.preprocess.limits import check_pixels",
    "service/preprocess/limits.py": "from prometheus_client import Counter",
    "service/metrics.py": "from service.settings import Settings",
    "service/contract.py": "import torch",
    "service/client/calls.py": "import onnxruntime",
    "service/client/tries.py": "from service.engine.base import Engine",
    "service/access/keys.py": "from service.settings import Settings",
    "service/classifier.py": "import httpx",
    "service/errors.py": "import service.newcomer",
    "model_export/labels.py": "from service.batching.ticket import Ticket",
    "model_export/describe.py": "import torch",
}
"""Modules, and an import that each may not have."""


def test_an_import_that_no_contract_allows_fails_whatever_its_kind(tmp_path):
    for package in ("service", "model_export"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "service" / "newcomer.py").write_text('"""In no layer."""\n')
    for module, line in PLANTED.items():
        path = tmp_path / module
        path.write_text(f"{path.read_text()}\n{line}\n")
    command = "import sys; from importlinter.cli import lint_imports_command as c; sys.exit(c())"
    ended = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=tmp_path, env={"PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.returncode != 0, ended.stdout
    unnoticed = [
        f"{module}: {line}"
        for module, line in PLANTED.items()
        if f"{module.removesuffix('.py').replace('/', '.')} -> {imported(line)}" not in ended.stdout
    ]
    assert unnoticed == ["service/errors.py: import service.newcomer"], ended.stdout
    assert "newcomer" in ended.stdout, "a module that is in no layer"


def imported(line: str) -> str:
    """The module, as the report names it: of other packages the package."""
    name = line.split()[1]
    return name if name.startswith("service.") else name.partition(".")[0]
