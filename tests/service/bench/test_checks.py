"""What flags name is looked at before anything slow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.bench.checks import check
from service.bench.errors import BenchError
from service.bench.options import read_options

IMPORTED = """
import sys
from service.cli import main
status = main(["bench", *sys.argv[1:]])
slow = {"numpy", "PIL", "onnxruntime", "uvloop"} & set(sys.modules)
assert not slow, slow
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"url": "http://192.0.2.1"}, "loopback"),
        ({"url": "https://localhost"}, "must look like http://127.0.0.1:8000"),
        ({"images": "/nonexistent"}, "--images /nonexistent: can't be read: No such file"),
        ({"mode": "trace", "trace": "/nonexistent"}, "--trace /nonexistent: can't be read"),
        ({"mode": "trace", "trace": "/"}, "--trace /: can't be read: Is a directory"),
        ({"limits": True, "model_file": "/nonexistent"}, "--model-file /nonexistent"),
        ({"server_pid": str(2**30)}, f"--server-pid: there is no process {2**30}"),
        ({"json_file": "/nonexistent/r.json"}, "--json /nonexistent/r.json: can't be written"),
        ({"html_file": "/"}, "--html /: can't be written: Is a directory"),
    ],
)
def test_what_is_not_there_is_named_with_its_flag(flags, said):
    with pytest.raises(BenchError, match=said):
        check(read_options(flags))


def test_what_is_there_is_left_as_it_is(tmp_path):
    report = tmp_path / "r.json"
    report.write_text("older")
    check(read_options({"json_file": str(report), "images": str(tmp_path)}))
    assert report.read_text() == "older"
    check(read_options({"json_file": "-", "limits": True}))
    assert not Path("-").exists()


def test_no_empty_report_is_left_where_there_was_none(tmp_path):
    (tmp_path / "link.html").symlink_to(tmp_path / "missing.html")
    flags = {"json_file": str(tmp_path / "r.json"), "html_file": str(tmp_path / "link.html")}
    check(read_options(flags))
    assert not (tmp_path / "r.json").exists()
    assert (tmp_path / "link.html").is_symlink()


@pytest.mark.parametrize(
    "flags", [["--clients", "x"], ["--images", "/nonexistent"], ["--url", "http://192.0.2.1"]]
)
def test_a_mistake_is_told_before_anything_slow_is_imported(flags):
    command = [sys.executable, "-c", IMPORTED, *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.startswith(f"resnet-serve: error: {flags[0]}")
    assert len(ended.stderr.splitlines()) == 1


def test_a_folder_may_be_called_like_synthetic_images(tmp_path, monkeypatch):
    (tmp_path / "synthetic-photos").mkdir()
    monkeypatch.chdir(tmp_path)
    check(read_options({"images": "synthetic-photos"}))
