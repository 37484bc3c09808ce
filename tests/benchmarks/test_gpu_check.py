"""scripts/gpu-check: its parts, its report, and that without a GPU all that needs none runs."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from gpu_check import faulty_server, main
from gpu_check.context import has_gpu
from gpu_check.report import Part, render
from gpu_check.serve import top_frames
from models import Recipe, make_model

SCRIPT = Path(__file__).parents[2] / "scripts/gpu-check"
TINY: dict[str, Any] = {
    "architecture": "resnet18",
    "base_width": 8,
    "stem": "small",
    "side": 32,
    "resize": 32,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The model files that it would make without a GPU, of less work."""
    folder = tmp_path_factory.mktemp("models")
    for precision, name in (("fp32", "light"), ("fp16", "light-fp16")):
        make_model(name, Recipe(**TINY, classes=5, precision=precision), folder)
    return folder


def gpu_check(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        check=check, capture_output=True, text=True, timeout=200,
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    )  # fmt: skip


def test_a_dry_run_lists_the_parts():
    listed = gpu_check("--dry-run").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [
        "attest", "sizes", "serve", "loss", "memory", "mixed", "train",
    ]  # fmt: skip


@pytest.mark.skipif(has_gpu(), reason="a GPU would be checked")
def test_without_a_gpu_all_that_needs_none_is_checked(models, tmp_path):
    done = gpu_check("--quick", "--models", models, "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert [part["name"] for part in found["parts"]] == list(main.PARTS)
    assert [part["error"] for part in found["parts"]] == [None] * len(main.PARTS)
    assert "Nothing fell short." in done.stdout
    for name in main.PARTS:
        assert f"## {name}" in done.stdout
    checked = [finding for part in found["parts"] for finding in part["findings"]]
    assert {finding["ok"] for finding in checked} == {True, None}
    assert sum("it needs a GPU" in finding["value"] for finding in checked) >= 5


def test_a_part_that_falls_short_is_told_by_the_exit_status(models, tmp_path):
    (models / "light-fp16.onnx").rename(models / "kept")
    try:
        (models / "light-fp16.onnx").write_bytes(b"no model")
        done = gpu_check("--quick", "--models", models, "--only", "attest", check=False)
    finally:
        (models / "kept").rename(models / "light-fp16.onnx")
    assert done.returncode == 1
    assert "**Failed:** ModelFileError" in done.stdout
    assert "Fell short: attest." in done.stdout


def test_an_unknown_part_is_refused():
    done = gpu_check("--only", "nonsense", check=False)
    assert done.returncode == 2
    assert "'attest', 'sizes'" in done.stderr


def test_a_python_without_the_service_is_told_what_it_lacks():
    done = subprocess.run(
        [sys.executable, "-S", str(SCRIPT), "--dry-run"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("gpu-check: error: ")
    assert "is not installed for" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_findings_reach_their_targets_or_fall_short():
    part = Part("sizes")
    part.at_most("small", 1.2, 1.2)
    part.at_least("large", 0.9, 0.9)
    part.note("a figure", "7")
    part.skip("more")
    assert not part.fell_short
    part.at_most("nothing", float("nan"), 1.0)
    assert part.fell_short
    machine = {
        "date": "2026-01-01", "gpu": "NVIDIA H200", "cpu": "c", "cores": 16, "python": "3",
        "packages": {"onnxruntime-gpu": "1.31.1"}, "command": "scripts/gpu-check",
    }  # fmt: skip
    text = render(machine, [part, Part("train", error="no")])
    assert "| small | 1.2 | at most 1.2 | ok |" in text
    assert "| nothing | nan | at most 1 | **short** |" in text
    assert "| a figure | 7 |  |  |" in text
    assert "**Failed:** no" in text
    assert text.endswith("Fell short: sizes, train.\n")
    assert Part.from_json(json.loads(json.dumps(part.as_json()))) == part


def test_a_part_that_takes_too_long_falls_short(monkeypatch, models):
    monkeypatch.setattr(main, "PART_S", 0.01)
    options = main._parser().parse_args(["--models", str(models)])
    part = main._in_a_process("train", options)
    assert part.error == "it took longer than 0 s"
    assert part.fell_short


def test_frames_of_a_profile_count_by_their_own_time():
    frames = top_frames(["main;a;b 30", "main;a 10", "other;b 60", "nonsense"])
    assert frames == ["- 90% b", "- 10% a"]


def test_the_provoked_error_is_the_drivers_own():
    """Each call of the driver in its order, up to the one that reports."""
    calls = []

    class Driver:
        def __getattr__(self, name):
            def call(*arguments):
                calls.append(name)
                return 700 if name == "cuCtxSynchronize" else 0

            return call

    assert faulty_server.break_context(cast("ctypes.CDLL", Driver())) == 700
    assert calls == [
        "cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuModuleLoadData",
        "cuModuleGetFunction", "cuLaunchKernel", "cuCtxSynchronize",
    ]  # fmt: skip


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_no_process_is_left(models, how):
    """Also of what a part has started; what was done by then is reported."""
    command = [sys.executable, str(SCRIPT), "--models", str(models), "--only", "train",
               "--only", "memory"]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            if "memory" in line:
                break
        while len(processes_of(models)) < 2:
            pass
        process.send_signal(how)
        report = process.stdout.read()
        status = process.wait(60)
    if how is not signal.SIGKILL:
        assert status == 130
        assert "## train" in report
    while processes_of(models):
        pass


def test_what_can_not_be_written_is_told_before_the_work(models, tmp_path):
    done = gpu_check("--models", models, "--json", tmp_path / "no/folder.json", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("gpu-check: error: ")
    assert done.stdout == ""
