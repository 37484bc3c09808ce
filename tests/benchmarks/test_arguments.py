"""Arguments that can't be are told by the programs in benchmarks/ before they measure anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("startup.py --runs 0", "argument --runs: '0' is not a whole number of at least 1"),
        ("overload.py --factor nan", "argument --factor: 'nan' is not a number above 0"),
        ("overload.py --json missing/r.json", "error: --json missing/r.json: can't be written"),
        ("overload.py --deadline-ms 1e300 --closed-duration 0.2 --warm-up 0.1 --image-count 1",
         "overload: error: --deadline-ms: must be a number"),
        ("simulated.py --engine-share -1", "argument --engine-share: '-1' is not a number above 0"),
        ("doors.py --clients 9", "error: --clients must be a multiple of --streams"),
        ("decoding.py --megapixels 0", "argument --megapixels: '0' is not a number above 0"),
        ("decoding.py --only nothing", "error: --only: no kind has nothing in its name"),
        ("family.py resnet1", "argument NAME: 'resnet1' is not one of resnet18, "),
        ("accuracy_http.py photos --url http://127.0.0.1:1", "accuracy_http: error: "),
        ("peers/run.py --duration 0 --servers resnet-serve", "error: --duration: must be a number"),
    ],
)  # fmt: skip
def test_it_is_one_line(command: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After the usage, where a flag alone tells; never a traceback."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    program, *arguments = command.split()
    ended = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / program), *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=90,
    )  # fmt: skip
    assert ended.returncode in {1, 2}
    assert said in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
